"""The system calls that a job may not make (seccomp), by libseccomp. A list of what is refused, as containers have it.

Numerical libraries use what the rest is for; a list of what is allowed would break with each of their releases.
"""

import logging
import os
from typing import Any

try:
    import pyseccomp
except (ImportError, OSError, RuntimeError):  # without libseccomp.so.2 it cannot be imported
    pyseccomp = None

seccomp: Any = pyseccomp
LOGGER = logging.getLogger(__name__)
REFUSED = (
    # other processes, the kernel, its keys and its events
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "bpf", "perf_event_open", "userfaultfd",
    "keyctl", "add_key", "request_key", "syslog", "kexec_load", "kexec_file_load", "init_module", "finit_module",
    "delete_module", "reboot", "acct", "swapon", "swapoff", "lookup_dcookie", "quotactl", "iopl", "ioperm",
    # namespaces, mounts, file handles: ways out
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat",
    # a second system-call interface, and other clocks, names and personalities
    "io_uring_setup", "io_uring_enter", "io_uring_register", "settimeofday", "clock_settime", "adjtimex",
    "clock_adjtime", "sethostname", "setdomainname", "personality", "vhangup", "nfsservctl",
)  # fmt: skip
_AF_UNIX = 1
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET


def compiled() -> int | None:
    """A descriptor of the compiled filter for `bwrap --seccomp`; None without libseccomp. The caller closes it."""
    if seccomp is None:
        return None
    allowed = seccomp.SyscallFilter(seccomp.ALLOW)
    denied = seccomp.ERRNO(1)  # EPERM
    for name in REFUSED:
        try:
            allowed.add_rule(denied, name)
        except (ValueError, OSError):
            LOGGER.debug("syscalls.unknown %s is none of this machine's", name)
    # Of sockets only those between processes of the job; vsock, for one, reaches past network namespaces.
    allowed.add_rule(denied, "socket", seccomp.Arg(0, seccomp.NE, _AF_UNIX))
    for bit in (bit for bit in (1 << k for k in range(32)) if bit & _NEW_NAMESPACES):
        allowed.add_rule(denied, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, bit, bit))
    allowed.add_rule(seccomp.ERRNO(38), "clone3")  # ENOSYS: its flags cannot be seen; C libraries fall back to clone
    descriptor = os.memfd_create("seccomp", 0)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            allowed.export_bpf(stream)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
