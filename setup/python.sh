#!/bin/sh
# Finds a Python that can build the environments, and runs the rest of its arguments with it. It installs nothing.
# $PYTHON, if set, is the only one tried.

usable='import sys, venv, ensurepip, ssl, sqlite3, ctypes, zlib
sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
version='import sys
print("%d.%d.%d" % sys.version_info[:3])
sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

seen=''
almost=''
for python in ${PYTHON:-python3 python3.12 python3.13 python3.11 python}; do
    command -v "$python" >/dev/null 2>&1 || continue
    if "$python" -c "$usable" >/dev/null 2>&1; then
        exec "$python" "$@"
    fi
    if number=$("$python" -c "$version" 2>/dev/null); then
        almost=${almost:-$python}
        almost_number=${almost_number:-$number}
    elif [ -n "$number" ]; then
        seen="${seen:+$seen, }$python is $number"
    fi
done

if [ -n "$almost" ]; then
    # Debian and Ubuntu ship Python without the modules that make environments; with pip there the installer can still do it.
    if "$almost" -c 'import venv, pip, ssl, sqlite3, ctypes, zlib' >/dev/null 2>&1; then
        exec "$almost" "$@"
    fi
    short=${almost_number%.*}
    echo "Python $almost_number ($almost) lacks a module that is needed to make an environment (venv, ensurepip, ssl, sqlite3, ctypes or zlib)." >&2
    echo "On Debian or Ubuntu: sudo apt install python$short-venv. Or name another Python: make run PYTHON=/path/to/python3.12" >&2
    exit 1
fi
echo "Callgate needs Python 3.11, 3.12 or 3.13, and there is none here${PYTHON:+ under the name $PYTHON}${seen:+ ($seen)}." >&2
echo "Install one (Debian or Ubuntu: sudo apt install python3 python3-venv) or name one: make run PYTHON=/path/to/python3.12" >&2
exit 1
