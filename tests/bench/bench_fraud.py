"""bench-fraud: detection on the handbook's weeks beside its baselines, parity of features, and what a score costs over HTTP.

Run `python -m tests.bench.bench_fraud` from the root; `QUICK=1` for the short form, `--gateway http://127.0.0.1:PORT --key KEY` to
measure a gateway that runs already too (`given.*`). Reads `$CALLGATE_DATA_DIR/fraud_tx_*.parquet`; without it only latency is
measured. The last line is JSON; null is what was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
from pathlib import Path

from serving.fraud.dataset import InvalidData
from tests.bench.fraud_detection import Figures, detection
from tests.bench.fraud_http import latency

WANTED = (
    "week.ap week.cp100 week.auc week.ap_lo week.ap_hi rf.ap parity.rows parity.differing"
    " http.p50_ms http.p99_ms http.cpu_ms naive.cpu_ms late.ap late.cp100"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", default=os.environ.get("CALLGATE_URL", ""))
    parser.add_argument("--key", default=os.environ.get("CALLGATE_API_KEY", ""))
    parser.add_argument("--only", choices=["detection", "latency"])
    options = parser.parse_args()
    figures: Figures = dict.fromkeys(WANTED.split())
    if options.only != "detection":
        figures |= latency(options.gateway, options.key)
    folder = os.environ.get("CALLGATE_DATA_DIR", "")
    try:
        figures |= detection(Path(folder)) if folder and options.only != "latency" else {}
    except InvalidData as error:
        print(f"detection and parity not measured: {error}")
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    for name, value in rounded.items():
        print(f"{name:<28} {'not measured' if value is None else value}")
    spent = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{'(bench CPU s)':<28} {spent.ru_utime + spent.ru_stime:.0f}")
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
