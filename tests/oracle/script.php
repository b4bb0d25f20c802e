<?php
// Allocates on many different stacks of PHP: steps chosen at random, nested to a random depth, each
// through C code that calls back. Run with USE_ZEND_ALLOC=0.
mt_srand(1);
$kept = [];
$depth = 0;
$budget = 0;
$destructing = 0;

function keep($block) {
    global $kept;
    if (mt_rand(0, 7) == 0) $kept[] = $block;
}

class Nested implements IteratorAggregate, JsonSerializable, ArrayAccess, Countable {
    public function __toString(): string { nest(); return "nested"; }
    public function __get($name) { nest(); return $name; }
    public function __call($name, $arguments) { nest(); }
    public function __invoke() { nest(); }
    public function __destruct() {
        global $destructing;
        $destructing++; // No fiber may start in here.
        nest();
        $destructing--;
    }
    public function getIterator(): Iterator { nest(); return new ArrayIterator([1, 2]); }
    public function jsonSerialize(): mixed { nest(); return 1; }
    public function offsetExists($at): bool { nest(); return true; }
    public function offsetGet($at): mixed { nest(); return 1; }
    public function offsetSet($at, $value): void { nest(); }
    public function offsetUnset($at): void { nest(); }
    public function count(): int { nest(); return 1; }
}

$leaves = [
    fn() => keep(str_repeat("x", mt_rand(100, 5000))),
    fn() => keep(range(1, 100)),
    fn() => keep(json_decode('{"a": [1, 2.5, "text", {"b": null}]}')),
    fn() => keep(json_encode(["a" => [1, 2.5, "text"]], JSON_PRETTY_PRINT)),
    fn() => keep(preg_match('/(a|b)*c' . mt_rand() . '/', "ababc")),
    fn() => keep(sprintf("%05d %s %.3f", 5, "text", 1.5)),
    fn() => keep(explode(" ", "one two three four")),
    fn() => keep(serialize([1, "a" => new ArrayObject([1, 2])])),
    fn() => keep(unserialize('a:2:{i:0;i:1;i:1;s:4:"text";}')),
    fn() => keep(file_get_contents("/proc/self/stat")),
    fn() => keep(scandir("/proc/self/task")),
    fn() => keep(new DateTime("2024-01-01 10:00 +1 day")),
    fn() => keep(hash("sha256", "text")),
    fn() => keep(new SplObjectStorage()),
    fn() => keep(array_fill(0, 50, "a")),
];

function produce() { nest(); yield 1; nest(); yield from [2, 3]; }
function fail() { try { nest(); throw new Exception("text"); } catch (Exception $e) { nest(); } finally { nest(); } }

$steps = [
    fn() => array_map(fn($n) => nest(), [1, 2]),
    function () { $a = [3, 1, 2]; usort($a, function ($a, $b) { nest(); return $a <=> $b; }); },
    fn() => preg_replace_callback('/[ab]/', fn($m) => nest() ?? "x", "abc"),
    fn() => array_filter([1, 2], fn($n) => nest()),
    fn() => array_reduce([1, 2], fn($a, $b) => nest()),
    fn() => call_user_func_array('nest', []),
    fn() => "text " . new Nested(),
    fn() => (new Nested())->field,
    fn() => (new Nested())->method(),
    fn() => (new Nested())(),
    fn() => json_encode([new Nested()]),
    fn() => count(new Nested()) + (new Nested())[1],
    function () { foreach (new Nested() as $n) nest(); },
    function () { foreach (produce() as $n) nest(); },
    fn() => iterator_to_array(produce(), false),
    function () { ob_start(fn($text) => $text); echo "text"; nest(); ob_end_clean(); },
    fn() => (new ReflectionFunction('nest'))->invoke(),
    fn() => eval('nest();'),
    function () { $a = [1, 2]; array_walk($a, fn() => nest()); },
    fn() => fail(),
    function () {
        global $destructing;
        if ($destructing) return nest();
        $fiber = new Fiber(fn() => Fiber::suspend(1)); $fiber->start();
        nest();
        $fiber->resume();
    },
];

function nest() {
    global $depth, $budget, $leaves, $steps;
    if ($depth <= 0 || --$budget <= 0 || mt_rand(0, 5) == 0) {
        $leaves[array_rand($leaves)]();
        return null;
    }
    $depth--;
    $steps[array_rand($steps)]();
    $depth++;
    return null;
}

echo "ready ", getmypid(), "\n";
fgets(STDIN);
for ($round = 0; $round < 150; $round++) {
    $depth = mt_rand(1, 8);
    $budget = 40;
    nest();
}
echo "done\n";
fgets(STDIN);
