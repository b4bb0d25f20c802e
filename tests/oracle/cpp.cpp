// Allocates on thousands of different stacks of C++: steps chosen at random, nested to a random
// depth, through exceptions (in the handler, in destructors while one is under way), templates of
// templates, std::function, virtual calls, the standard library's callbacks, alloca, aligned arrays,
// threads and coroutines. Built with -O2 -fomit-frame-pointer. Every eighth block stays.
#include "protocol.h"

#include <string.h>

#include <algorithm>
#include <alloca.h>
#include <any>
#include <coroutine>
#include <functional>
#include <future>
#include <iostream>
#include <locale>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#define STEP static __attribute__((noinline)) void

namespace {

thread_local int depth;
thread_local int budget; // How many more steps.
thread_local bool in_destructor;
void nest();

void keep(void *block) {
    if (random_below(8)) free(block);
}

// What allocates by itself.

STEP leaf_malloc() { keep(malloc(1 + random_below(99))); }
STEP leaf_new() { delete new std::string(100, 'x'); }
STEP leaf_vector() {
    std::vector<int> numbers;
    for (int i = 0; i < 20; i++) numbers.push_back(i);
}
STEP leaf_map() {
    std::map<std::string, std::vector<int>> map;
    map["a key that is too long for the small string"].resize(9);
}
STEP leaf_hash() {
    std::unordered_map<std::string, int> map;
    for (int i = 0; i < 5; i++) map[std::to_string(i) + " and more than fits a small string"] = i;
}
STEP leaf_stream() {
    std::ostringstream stream;
    stream << depth << ' ' << 1.5 << " some text that makes the buffer grow more than once" << std::hex;
    keep(strdup(stream.str().c_str()));
}
STEP leaf_regex() {
    static const std::regex pattern("(a|b)*c[d-f]+(g+|h?)(i{1,3})");
    std::smatch match;
    const std::string text = "ababcdefggii";
    if (!std::regex_match(text, match, pattern)) abort();
}
STEP leaf_regex_compile() { std::regex pattern("^(x+)?[[:alpha:]](y|z)*$"); }
STEP leaf_shared() { std::shared_ptr<std::any> any = std::make_shared<std::any>(std::string(40, 'a')); }
STEP leaf_locale() { std::locale both(std::locale::classic(), new std::ctype<char>()); }
STEP leaf_aligned() {
    struct alignas(64) Line {
        char bytes[64];
    };
    delete new Line();
}
STEP leaf_exception() {
    try {
        throw std::runtime_error("an exception with a text that is long enough to be allocated");
    } catch (const std::exception &) {
    }
}

constexpr void (*leaves[])() = {
    leaf_malloc, leaf_new,   leaf_vector,        leaf_map,    leaf_hash,   leaf_stream,
    leaf_regex,  leaf_shared, leaf_regex_compile, leaf_locale, leaf_aligned, leaf_exception,
};

// What calls something else.

struct Shape {
    virtual ~Shape() = default;
    virtual int area(int) = 0;
};
struct Square : Shape {
    int area(int size) override { nest(); return size * size; }
};
struct Base2 {
    long padding = 1;
    virtual long other(int) = 0;
    virtual ~Base2() = default;
};
struct Both : Shape, Base2 {
    int area(int size) override { nest(); return size + 1; }
    long other(int size) override { nest(); return size + padding; }
};
STEP step_virtual() {
    Square square;
    Both both;
    Shape *shapes[] = {&square, &both};
    volatile int area = shapes[random_below(2)]->area(depth);
    Base2 *base = &both;
    if (random_below(2)) area = area + (int)base->other(area); // through a thunk
}
STEP step_function() {
    std::string captured(30, 'c');
    std::function<int(int)> function = [captured](int number) { nest(); return number + (int)captured.size(); };
    std::function<int()> outer = [function] { return function(1) + 1; };
    volatile int result = outer();
    (void)result;
}
template <int N, typename... Types>
struct Deep {
    static __attribute__((noinline)) long go(long a, Types... types) {
        volatile long local[N + 1] = {};
        local[N] = Deep<N - 1, Types..., long>::go(a + local[0], types..., a);
        return local[N] + 1;
    }
};
template <typename... Types>
struct Deep<0, Types...> {
    static __attribute__((noinline)) long go(long a, Types...) { nest(); return a + 1; }
};
STEP step_template() {
    volatile long result = random_below(2) ? Deep<3>::go(depth) : Deep<12>::go(depth);
    (void)result;
}
STEP step_sort() {
    std::vector<std::string> texts = {"d", "b", "f", "a", "c"};
    std::sort(texts.begin(), texts.end(), [](const auto &a, const auto &b) {
        if (random_below(4) == 0) nest();
        return a < b;
    });
}
STEP step_set() {
    auto compare = [](int a, int b) {
        if (random_below(4) == 0) nest();
        return a < b;
    };
    std::set<int, decltype(compare)> set(compare);
    for (int i = 0; i < 5; i++) set.insert((int)random_below(100));
}
STEP step_visit() {
    std::variant<int, std::string, double> variant;
    if (random_below(2)) variant = std::string(30, 'v');
    std::visit([](auto &) { nest(); }, variant);
}
struct Guard {
    int saved = depth;
    ~Guard() {
        bool before = in_destructor;
        in_destructor = true; // Nothing may be thrown from here.
        depth = std::min(saved, 2);
        nest();
        depth = saved;
        in_destructor = before;
    }
};
STEP thrower(int levels) {
    Guard guard;
    if (levels == 0) throw depth;
    thrower(levels - 1);
}
STEP step_unwind() {
    if (in_destructor) return nest();
    int saved = depth;
    try {
        thrower((int)random_below(3));
    } catch (int) {
        depth = saved;
    }
}
STEP step_catch() {
    int saved = depth;
    try {
        throw std::string("thrown, and long enough to be allocated");
    } catch (const std::string &) {
        depth = saved;
        nest(); // In the handler.
    }
}
STEP step_rethrow() {
    int saved = depth;
    try {
        try {
            throw 1;
        } catch (...) {
            depth = saved;
            nest();
            throw;
        }
    } catch (int) {
        depth = saved;
        nest();
    }
}
STEP step_alloca() {
    volatile char *room = (volatile char *)alloca(1 + random_below(300));
    room[0] = 0;
    nest();
    (void)room[0];
}
STEP step_aligned() {
    alignas(64) volatile char room[64];
    room[0] = 0;
    nest();
    (void)room[0];
}
STEP step_aligned_alloca() {
    alignas(128) volatile char room[128];
    volatile char *more = (volatile char *)alloca(1 + random_below(200));
    room[0] = 0;
    more[0] = 0;
    nest();
    (void)room[0], (void)more[0];
}
STEP step_large() {
    volatile char room[3000];
    room[0] = 0;
    nest();
    (void)room[0];
}
struct Big {
    long words[6];
};
static __attribute__((noinline)) Big many(Big a, long b, long c, long d, long e, long f, long g, Big h, double i) {
    nest();
    a.words[0] += b + c + d + e + f + g + h.words[1] + (long)i;
    return a;
}
STEP step_arguments() {
    Big big = {{1, 2, 3, 4, 5, 6}};
    volatile long sum = many(big, 1, 2, 3, 4, 5, 6, big, 1.5).words[0];
    (void)sum;
}
STEP step_qsort() {
    int numbers[] = {4, 2, 6, 1};
    qsort(numbers, 4, sizeof *numbers, [](const void *a, const void *b) {
        if (random_below(3) == 0) nest();
        return *(const int *)a - *(const int *)b;
    });
}
STEP step_once() {
    std::once_flag once;
    std::call_once(once, nest);
}
STEP step_thread() {
    if (random_below(4)) return nest();
    int saved = depth;
    std::thread([saved] { depth = saved; budget = 10; nest(); }).join();
}
STEP step_async() {
    if (random_below(4)) return nest();
    int saved = depth;
    auto policy = random_below(2) ? std::launch::async : std::launch::deferred;
    std::async(policy, [saved] { depth = saved; budget = 10; nest(); return 1; }).get();
}
struct Buffer : std::streambuf {
    int overflow(int c) override { nest(); return c; }
};
STEP step_stream() {
    Buffer buffer;
    std::ostream stream(&buffer);
    stream << 'x';
    if (random_below(2)) stream << std::endl;
}
struct Task {
    struct promise_type {
        Task get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_always initial_suspend() { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { abort(); }
    };
    std::coroutine_handle<promise_type> handle;
};
Task coroutine() {
    nest();
    co_await std::suspend_always{};
    nest();
}
STEP step_coroutine() {
    Task task = coroutine();
    task.handle.resume();
    task.handle.resume();
    task.handle.destroy();
}

constexpr void (*steps[])() = {
    step_virtual, step_function, step_template, step_sort,   step_set,       step_visit,
    step_unwind,  step_catch,    step_rethrow,  step_alloca, step_aligned,   step_aligned_alloca,
    step_large,   step_qsort,    step_once,     step_thread, step_async,     step_stream,
    step_arguments, step_coroutine,
};

__attribute__((noinline)) void nest() {
    if (depth <= 0 || --budget <= 0 || random_below(6) == 0) return leaves[random_below(std::size(leaves))]();
    int before = depth--;
    steps[random_below(std::size(steps))]();
    depth = before;
}

} // namespace

int main() {
    wait_to_start();
    for (int i = 0; i < 2000; i++) {
        depth = 1 + (int)random_below(9);
        budget = 30;
        nest();
    }
    return say_done();
}
