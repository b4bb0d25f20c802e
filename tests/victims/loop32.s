# A 32-bit program that waits for ever, without any libc: pause(2) in a loop.
.globl _start
_start:
        mov $29, %eax
        int $0x80
        jmp _start
.section .note.GNU-stack, "", @progbits
