/* Statically linked and without symbols: nothing says where its allocator is. */
#include "malloc.c"
