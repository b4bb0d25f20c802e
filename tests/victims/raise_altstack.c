/* As `raise`, with the handlers on a stack of their own: addresses of stacks cannot be compared
 * to tell which call is inside of which. */
#define ALTSTACK 1
#define NAME "raise_altstack"
#include "raise.c"
