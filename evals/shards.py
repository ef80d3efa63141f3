"""One run cut into shards: over processes of this machine, over Ray, or one shard a pod of a Kubernetes Indexed Job; then joined into one report.

A shard is a part of the conversations, has its own journal and its share of the budget, and decides nothing: the joined evidence does, and is
the same as that of one process. Journals stay until the run is whole, so a shard that died goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from evals.errors import TargetError
from evals.evidence import Evidence, load_evidence, merge, out_of_budget, save_evidence
from evals.launch import Options, conclude, gather
from evals.progress import Progress
from evals.report import Report


def launch_shards(
    options: Options, count: int, ray_address: str | None = None, progress: Progress | None = None
) -> Report:
    """The report of all shards, run in processes here or, with an address ('local': one of its own), on Ray.

    Raises EvalError where one of them cannot be had.
    """
    parts = [part(options, index, count) for index in range(count)]
    found = []
    for evidence in over_ray(parts, ray_address) if ray_address else over_processes(parts):
        found.append(evidence)
        if progress is not None:
            progress("shards", len(found), count, None)
    report = join(found, options)
    if not out_of_budget(report.evidence):
        shutil.rmtree(shards_folder(options.out), ignore_errors=True)
    return report


def launch_part(options: Options, index: int, count: int, progress: Progress | None = None) -> Path:
    """Shard `index` (0-based) alone, asked anew; returns where its evidence is, for `compare`. No report: a part has no verdict."""
    mine = part(options, index, count)
    save_evidence(found := gather(mine, progress), mine.out / "evidence.json")
    if not out_of_budget(found):
        (mine.out / "journal.jsonl").unlink(missing_ok=True)
    return mine.out / "evidence.json"


def launch_pod(options: Options, index: int, count: int, progress: Progress | None = None) -> Report | None:
    """Shard `index` (0-based), for a pod: its evidence goes to a folder that all pods of this run, and no other run, share.

    Whoever finds the shards complete joins them, so the last pod to finish returns the report and the others None.
    """
    mine = part(options, index, count)
    if not (mine.out / "evidence.json").is_file():  # a pod that is started again has nothing left to ask
        save_evidence(gather(mine, progress), mine.out / "evidence.json")
        (mine.out / "journal.jsonl").unlink(missing_ok=True)
    files = [part(options, other, count).out / "evidence.json" for other in range(count)]
    if not all(file.is_file() for file in files):
        return None
    return join([load_evidence(file) for file in files], options)


def part(options: Options, index: int, count: int) -> Options:
    """The options of one shard: a folder and, where replies are kept, a file of its own."""
    cache = options.cache and options.cache.with_name(f"{options.cache.name}.{index + 1}-of-{count}")
    out = shards_folder(options.out) / f"{index + 1}-of-{count}"
    return replace(options, shard=(index, count), out=out, cache=cache, labels=None, signing_key=None)


def shards_folder(out: Path) -> Path:
    return out / "shards"


def join(shards: Sequence[Evidence], options: Options) -> Report:
    """The report of the whole, written to options.out."""
    return conclude(merge(list(shards)), options)


def over_processes(parts: Sequence[Options]) -> Iterator[Evidence]:
    """As they finish. The first fault ends the run; what the other shards were told by then is in their journals."""
    with ProcessPoolExecutor(len(parts), mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(gather, one) for one in parts]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def over_ray(parts: Sequence[Options], address: str) -> Iterator[Evidence]:
    """As they finish. Workers need this package, the suite and a way to the URLs; their journals lie on their own disks."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise TargetError("--engine ray needs an extra: pip install 'callgate[cluster]'") from error
    own = {"_node_ip_address": "127.0.0.1", "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, **own)
    except Exception as error:  # it raises this very class when its node does not come up in time
        raise TargetError(f"no Ray at --ray-address {address!r}: {error}") from error
    try:
        waiting = [ray.remote(gather).remote(one) for one in parts]
        while waiting:
            (done, *_), waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        ray.shutdown()
