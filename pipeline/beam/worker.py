"""A worker process of a job on this machine: Beam's own, but it ends when its job does.

Started by `runner.LocalRunner` as `python -m facecluster.pipeline.beam.worker PID`.
"""

import os
import sys
import threading
import time

SECONDS_BETWEEN_LOOKS = 0.25


def main() -> None:
    job = int(sys.argv.pop(1))
    threading.Thread(target=_end_with, args=(job,), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _end_with(job: int) -> None:
    """Ends this process once the job is no more its parent: it was killed.

    Beam's workers would wait for it, or go on writing beside the next job.
    """
    while os.getppid() == job:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


if __name__ == "__main__":
    main()
