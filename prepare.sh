#!/usr/bin/env bash
# Makes .venv with facecluster, the formats extra, and the extras named (cpu or gpu, test); when it is
# there, does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

extras=formats,$(IFS=,; echo "$*")
stamp=.venv/prepared-$extras
wanted=$(cat setup.py constraints.txt | cksum)
if [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then exit; fi

for python in ${PYTHON:-python3.12 python3.11 python3.10 python3}; do
    if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2> /dev/null; then
        echo "installing facecluster[$extras] into .venv: a few minutes, once" >&2
        [ -x .venv/bin/python ] || "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --constraint constraints.txt --editable ".[$extras]"
        echo "$wanted" > "$stamp"
        exit
    fi
done
echo "facecluster needs Python 3.10, 3.11 or 3.12, and found none; set PYTHON to one" >&2
exit 1
