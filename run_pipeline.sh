#!/usr/bin/env bash
# One command: prepares what is missing, then runs the job.
#   ./run_pipeline.sh                                   on a few sample photos, into runs/sample
#   ./run_pipeline.sh --input PHOTOS --output RUN ...   whatever `facecluster run` takes
# EXTRA=gpu ./run_pipeline.sh ... installs TensorFlow and FAISS for NVIDIA GPUs instead of CPUs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

"$here/prepare.sh" "${EXTRA:-cpu}"
PATH="$here/.venv/bin:$PATH"
facecluster model fetch > /dev/null
if [ $# -eq 0 ]; then
    photos=$(facecluster sample-photos)
    echo "grouping the sample photos in $photos"
    set -- --input "$photos" --output "$here/runs/sample"
fi
exec facecluster run "$@"
