"""A sampling profile of the running service: every thread's stack, many times a second, as folded stacks.

From the standard library alone: `sys._current_frames` sees the event loop and the step thread alike and costs nothing while
nobody asks. A profiler by signals or by tracing would see one thread only, or slow the service down. C code is counted to
the line that called it. Read the result with flamegraph.pl, inferno or speedscope.
"""

import sys
import threading
import time
from collections import Counter
from types import FrameType

INTERVAL_S = 0.005
DEEPEST = 64  # frames of a stack


def folded(frame: FrameType | None, thread: str) -> str:
    """A stack as one line, outermost first: `thread;module:function;...`."""
    names: list[str] = []
    while frame is not None and len(names) < DEEPEST:
        names.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return ";".join([thread.replace(";", ","), *reversed(names)])


def sample_stacks(seconds: float, interval_s: float = INTERVAL_S) -> Counter[str]:
    """How often each stack was seen in so many seconds, the sampler's own thread left out. Blocks."""
    me, seen = threading.get_ident(), Counter[str]()
    began = time.monotonic()
    ticks = 0
    while (now := time.monotonic()) < began + seconds:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001  (there is no public way)
            if ident != me:
                seen[folded(frame, names.get(ident, "unknown"))] += 1
        ticks += 1
        time.sleep(max(0.0, began + ticks * interval_s - now))
    return seen


def as_text(stacks: Counter[str]) -> str:
    """Folded stacks, the most frequent first: a line `stack count` each."""
    return "".join(f"{stack} {count}\n" for stack, count in stacks.most_common())
