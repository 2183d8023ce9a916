"""Which system calls a container may make: what Python, Node, their installers and libraries use.

Ours instead of the engine's own filter, which differs by version: 20.10's lets io_uring and
the hypervisor's sockets through (tried). Everything not listed is refused as not permitted,
calls of another architecture end the program. Names that the machine doesn't know do nothing.
Format: https://docs.docker.com/engine/security/seccomp/
"""

from __future__ import annotations

import json
from typing import Any, Final

_ALLOW: Final = "SCMP_ACT_ALLOW"
_ENOSYS: Final = 38

_FAMILIES: Final = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6; AF_NETLINK lists interfaces
_NEW_NAMESPACES: Final = 0x7E020000  # every CLONE_NEW* flag
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux's own; the last one asks

_NAMES: Final = """
accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
chown32 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir
fchmod fchmodat fchmodat2 fchown fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid
getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid
getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat
listen listxattr llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier
memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl
msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2
pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
semctl semget semop semtimedop send sendfile sendfile64 sendmmsg sendmsg sendto
set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer
setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid
setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice
stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2
syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate truncate64
ugetrlimit umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid
waitpid write writev
""".split()  # noqa: SIM905


def _rule(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": _ALLOW, **more}


def _when(index: int, value: int, op: str = "SCMP_CMP_EQ", value_two: int = 0) -> dict[str, Any]:
    return {"args": [{"index": index, "value": value, "valueTwo": value_two, "op": op}]}


PROFILE: Final = json.dumps(
    {
        "defaultAction": "SCMP_ACT_ERRNO",  # EPERM
        "syscalls": [
            _rule(*_NAMES),
            *(_rule("socket", **_when(0, family)) for family in _FAMILIES),
            *(_rule("personality", **_when(0, known)) for known in _PERSONALITIES),
            _rule("clone", **_when(0, _NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ", 0)),
            # The flags of these can't be looked at; told that they don't exist, programs use
            # the older calls.
            {
                "names": ["clone3", "io_uring_setup"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": _ENOSYS,
            },
        ],
    },
    separators=(",", ":"),
)
