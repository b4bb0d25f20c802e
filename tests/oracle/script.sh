# Allocates on many different stacks of bash: steps chosen at random, nested to a random depth. Nothing
# in it makes another process.
RANDOM=1
kept=()
declare -A table

leaf() {
    local text numbers
    case $((RANDOM % 12)) in
    0) printf -v text '%s %05d %q' "a text" "$RANDOM" "it's" ;;
    1) numbers=({1..30}) ;;
    2) table[key$RANDOM]="value $RANDOM" ;;
    3) [[ "abcabc $RANDOM" =~ ^(a|b|c)*\ ([0-9]+)$ ]] && kept+=("${BASH_REMATCH[2]}") ;;
    4) text="${kept[*]:0:5}" text="${text//1/one}" text="${text^^}" ;;
    5) mapfile -t numbers <<<"one
two
three" ;;
    6) read -r -a numbers <<<"a b c d" ;;
    7) kept+=(/proc/self/s*) ;;
    8) printf -v text '%(%Y-%m-%d)T' 0 ;;
    9) local -a "array$RANDOM=(1 2 3)" ;;
    10) shopt -s extglob; [[ aabb == +(a|b) ]] && kept+=("$((RANDOM ** 2 % 77))") ;;
    11) eval "kept+=(\"\${kept[@]:0:3}\")" ;;
    esac
}

# A substitution would fork; this assigns instead.
branch() { if ((RANDOM % 2)); then nest; else nest && leaf; fi; }
looped() { local i; for ((i = 0; i < 2; i++)); do nest; done; }
listed() { local word; for word in a b; do nest; done; }
waiting() { local i=0; while ((i++ < 2)); do nest; done; }
chosen() { case x$RANDOM in *[02468]) nest ;; x*) { nest; leaf; } ;; esac; }
evaluated() { eval 'nest; leaf'; }
grouped() { { { nest; }; } >/dev/null; }
negated() { ! nest || leaf; }
called_back() { local numbers; mapfile -t -c 1 -C 'nest #' numbers <<<"one
two"; }
sourced() { source /dev/stdin <<<'nest'; }
trapped() { trap 'trap - USR1; nest' USR1; kill -USR1 $$; leaf; }
debugged() { trap 'trap - DEBUG; nest' DEBUG; leaf; trap - DEBUG; }
returned() { set -- "$@" more; builtin eval nest; return 0; }
steps=(branch looped listed waiting chosen evaluated grouped negated called_back sourced trapped debugged returned)

nest() {
    if ((depth <= 0 || --budget <= 0 || RANDOM % 6 == 0)); then
        leaf
        return 0
    fi
    ((depth--))
    "${steps[RANDOM % ${#steps[@]}]}"
    ((depth++))
    return 0
}

echo "ready $$"
read -r
for ((round = 0; round < 150; round++)); do
    depth=$((1 + RANDOM % 3)) budget=15
    nest
done
echo "done"
read -r
exit 0
