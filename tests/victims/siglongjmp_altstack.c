/* As `siglongjmp`, with the handler on a stack of its own. */
#define ALTSTACK 1
#define NAME "siglongjmp_altstack"
#include "siglongjmp.c"
