#!/usr/bin/env python3
"""Runs a command on a kernel that, as far as the command can tell, forbids io_uring.

    without-io-uring.py EPERM COMMAND [ARGUMENT...]

The three system calls of io_uring fail with the error named, for the command and all its children, by a seccomp filter
as container runtimes install them (Docker's answers EPERM, Podman's ENOSYS). Needs no privileges. Exits with 125 if the
filter cannot be had.
"""

import ctypes
import errno
import os
import sys

# The numbers are the same on every architecture.
IO_URING_SETUP, IO_URING_REGISTER = 425, 427
LOAD, JUMP_IF_GREATER_OR_EQUAL, JUMP_IF_GREATER, RETURN = 0x20, 0x35, 0x25, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2


class Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("steps", ctypes.POINTER(Step))]


def forbid(error):
    steps = (Step * 5)(
        Step(LOAD, 0, 0, 0),  # the number of the call
        Step(JUMP_IF_GREATER_OR_EQUAL, 0, 2, IO_URING_SETUP),
        Step(JUMP_IF_GREATER, 1, 0, IO_URING_REGISTER),
        Step(RETURN, 0, 0, FAIL | error),
        Step(RETURN, 0, 0, ALLOW),
    )
    program = Program(len(steps), steps)
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    calls = [(PR_SET_NO_NEW_PRIVS, 1, zero), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))]
    for option, first, second in calls:
        if libc.prctl(option, ctypes.c_ulong(first), second, zero, zero) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if len(sys.argv) < 3 or not hasattr(errno, sys.argv[1]):
    sys.exit(__doc__)
try:
    forbid(getattr(errno, sys.argv[1]))
except OSError as problem:
    print(f"no filter against io_uring can be had: {problem}", file=sys.stderr)
    sys.exit(125)
os.execvp(sys.argv[2], sys.argv[2:])
