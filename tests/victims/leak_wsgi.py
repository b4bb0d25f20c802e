"""A WSGI application of which one path leaks natively."""
import ctypes
import os

malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
malloc.argtypes = [ctypes.c_size_t]


def application(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        malloc(65536)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
