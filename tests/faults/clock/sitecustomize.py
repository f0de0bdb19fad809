"""Sets a process's clock back by a day, some seconds after it has started."""

import os
import time

TRUE_TIME, START = time.time, time.monotonic()
AFTER = float(os.environ.get("CLOCK_JUMPS_AFTER", "inf"))


def jumping_time():
    return TRUE_TIME() - 86400 * (time.monotonic() - START > AFTER)


time.time = jumping_time
