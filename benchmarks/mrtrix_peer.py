"""MRtrix3's commands for a step, timed with their reading and writing; `mrtrix_inputs` writes their inputs.

python -m benchmarks.mrtrix_peer STEP OUT THREADS
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.process import report, wait_for

TISSUES = ("wm", "gm", "csf")
CSD_ORDER = 8  # default of `dwi2fod csd` with enough directions
MULTI_TISSUE_ORDERS = "8,0,0"  # MRtrix3's default for WM if the response has this order; ours is 10


def commands(step: str, out: Path) -> list[list[str]]:
    image, mask = str(out / "dwi.mif"), str(out / "mask.mif")
    if step == "tensor":
        maps = ["-fa", str(out / "fa.nii"), "-adc", str(out / "md.nii")]
        return [
            ["dwi2tensor", "-mask", mask, image, str(out / "tensor.mif")],
            ["tensor2metric", "-mask", mask, *maps, str(out / "tensor.mif")],
        ]
    if step == "multi-tissue":
        tissues = [str(out / f"{tissue}{suffix}") for tissue in TISSUES for suffix in (".txt", ".mif")]
        return [
            ["dwi2fod", "msmt_csd", "-mask", mask, "-lmax", MULTI_TISSUE_ORDERS, image, *tissues],
            ["sh2peaks", "-mask", mask, "-num", "5", tissues[1], str(out / "peaks.nii")],
        ]
    order = (out / "order.txt").read_text()
    fod = str(out / "fod.mif")
    return [
        ["dwi2fod", "csd", "-mask", mask, "-lmax", order, image, str(out / "response.txt"), fod],
        ["sh2peaks", "-mask", mask, "-num", "5", fod, str(out / "peaks.nii")],
    ]


def main(step: str, out: str, threads: str) -> None:
    seconds, cpu, peak = 0.0, 0.0, 0
    for command in commands(step, Path(out)):
        started = time.perf_counter()
        process = subprocess.Popen([*command, "-quiet", "-force", "-nthreads", threads])
        usage = wait_for(process)
        seconds += time.perf_counter() - started
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss)
        if process.returncode:
            sys.exit(f"{command[0]} failed with exit code {process.returncode}")
    report({"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "peak_mb": round(peak / 1024)})


if __name__ == "__main__":
    main(*sys.argv[1:])
