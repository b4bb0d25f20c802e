/* A function that nobody can leave by rules: no unwind information, the frame pointer overwritten,
 * and the stack pointer rounded, so that the caller's is in a register that is not followed. */
#include "victim.h"

static struct site at_odd = {.frames = "leak_odd,odd"};

void leak_odd(void);
void odd(void);

FRAME void leak_odd(void) { keep(&at_odd, malloc(77), 77); }

__asm__(".text\n"
        ".type odd, @function\n"
        ".balign 64\n"
        "odd:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    mov %rsp, %rbx\n"
        "    sub $200, %rsp\n"
        "    and $-64, %rsp\n"
        "    mov $0x1234, %ebp\n"
        "    call leak_odd\n"
        "    mov %rbx, %rsp\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size odd, . - odd\n"
        ".balign 64\n");

int main(void) {
    ready();
    odd();
    __asm__ volatile("");
    return finish("odd", &at_odd, NULL);
}
