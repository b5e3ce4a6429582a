"""A contestant's process in Python: answers the requests of bench/protocol.ts."""

import json
import math
import os
import sys
import time


class Missing(Exception):
    """Something that is optional is not there."""


def memory_field(name):
    """A field of /proc/self/status, in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(name)


def start_peak():
    """From now on the record of the most resident memory starts anew; what is resident now, None if unknown."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
        return memory_field("VmRSS")
    except (OSError, KeyError):
        return None


def read_problem(request):
    import numpy

    size = request["size"]
    b, d, c = size["B"], size["D"], size["C"]
    with open(request["input"], "rb") as file:
        features = numpy.fromfile(file, numpy.float32, b * d).reshape(b, d)
        weights = numpy.fromfile(file, numpy.float32, c * d).reshape(c, d)
        labels = numpy.fromfile(file, numpy.int32, b)
    return features, weights, labels


def check(runner, request):
    before = start_peak()
    if before is not None:
        # Where a call was made already, to compile it: what was resident before that one.
        before = getattr(runner, "resident", before)
    start = time.perf_counter()
    runner.call()
    seconds = time.perf_counter() - start
    peak = None if before is None else max(0, memory_field("VmHWM") - before)
    row_loss, d_features, d_weights = runner.outcome()
    with open(request["output"], "wb") as file:
        for part in (row_loss[request["rows"]], d_features[request["rows"]], d_weights[request["classes"]]):
            file.write(part.astype("float32").tobytes())
    return {"seconds": seconds, "peakBytes": peak}


SLOW_CALL = 5


def sample(runner, request, fastest):
    began = time.process_time()
    if request["warmUp"] and fastest < SLOW_CALL:
        runner.call()
    calls = max(1, math.ceil(request["seconds"] / fastest))
    own, start = time.process_time(), time.perf_counter()
    for _ in range(calls):
        runner.call()
    elapsed = time.perf_counter() - start
    end = time.process_time()
    return {
        "seconds": elapsed / calls,
        "calls": calls,
        "elapsed": elapsed,
        "own": end - own,
        "ownInAll": end - began,
    }


def serve(make):
    """make(features, weights, labels, scale, m, job) gives an object with version, call() and outcome(); outcome() returns
    row losses [B], dX [B, D] and dW [C, D] of the mean loss as numpy arrays."""
    runner, fastest = None, math.inf
    # Libraries print what they like on standard output.
    replies = os.fdopen(3, "w")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                try:
                    problem = read_problem(request)
                    runner = make(*problem, request["scale"], request["m"], request["job"])
                except ImportError as error:
                    raise Missing(f"{error.name or error} is not installed") from error
                reply = {"version": runner.version}
            elif request["do"] == "check":
                reply = check(runner, request)
                fastest = reply["seconds"]
            else:
                reply = sample(runner, request, fastest)
                fastest = min(fastest, reply["seconds"])
        except Missing as error:
            reply = {"missing": str(error)}
        except Exception as error:  # whatever it is, the benchmark goes on without this contestant
            text = f"{type(error).__name__}: {error}".split("\n")[0]
            reply = {"failed": text, "memory": "memory" in text.lower()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
