"""
How the time of a function grows, on any machine.

A linear function takes four times the time for four times the input, a quadratic one sixteen times.
"""

import gc
import time


LARGEST_RATIO = 8.0
ATTEMPTS = 8


def seconds(function, argument):
    """Seconds of a call without the garbage collector, which walks all objects of the tests that ran before."""
    gc.disable()
    try:
        start = time.process_time()
        function(argument)
        return time.process_time() - start
    finally:
        gc.enable()


def ratio_of_times(function, short, long):
    """Ratio of the least times. Other work on the machine only adds to a time, so a large one is measured again."""
    fastest_short = fastest_long = float("inf")
    for _ in range(ATTEMPTS):
        fastest_short = min(fastest_short, seconds(function, short))
        fastest_long = min(fastest_long, seconds(function, long))
        if fastest_long < LARGEST_RATIO * fastest_short:
            break
    return fastest_long / fastest_short
