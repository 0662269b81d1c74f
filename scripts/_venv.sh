# Sourced by the other scripts: makes .venv at the top of the repository and fills it from a lock file.
#
#   . scripts/_venv.sh
#   ensure_venv runtime|test      sets PYTHON
#
# Quick when nothing has changed (a checksum is compared). Two at once wait for each other. The stamp is
# written last, so that an install that was cut short is never taken for a whole one.

TOP="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$TOP/.venv/bin/python"
MARK="$TOP/.venv/made-by-memsync"

ensure_venv() {
    local kind="$1" lock alone="" stamp wanted
    case "$kind" in
        runtime) lock="$TOP/config/lock.txt" ;;
        test) lock="$TOP/config/lock-test.txt" alone="$TOP/config/lock-models.txt" ;;
    esac
    stamp="$TOP/.venv/installed-$kind"
    wanted="$(cat "$lock" ${alone:+"$alone"} | sha256sum) $TOP"
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$PYTHON" ] && return 0
    (
        flock -n 9 || { echo "waiting for another install of $TOP/.venv" >&2 && flock 9; }
        [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0
        _install "$lock" "$alone" "$stamp" "$wanted" >&2
    ) 9<"$TOP/scripts/_venv.sh"
}

_install() {
    local lock="$1" alone="$2" stamp="$3" wanted="$4" begin=$SECONDS
    trap '_interrupted' INT TERM
    rm -f "$stamp"
    _is_half_made && rm -rf "$TOP/.venv" # somebody killed an install
    [ -x "$PYTHON" ] || _make_venv
    if ! _is_python_3_11 "$PYTHON"; then
        echo "$TOP/.venv is not of Python 3.11; remove it" >&2
        exit 2
    fi
    _install_packages "$lock" "about 340 MB"
    # Without what it names: memsync needs the files in it only.
    [ -z "$alone" ] || _install_packages "$alone" "84 MB" --no-deps
    _install_project
    echo "$wanted" >"$stamp.new" && mv "$stamp.new" "$stamp"
    # What tests need includes what memsync needs.
    [ "$stamp" = "$TOP/.venv/installed-runtime" ] ||
        echo "$(sha256sum <"$TOP/config/lock.txt") $TOP" >"$TOP/.venv/installed-runtime"
    echo "installed in $((SECONDS - begin)) s"
}

_make_venv() {
    local python
    python="$(_find_python)"
    echo "making $TOP/.venv with $python"
    mkdir -p "$TOP/.venv"
    touch "$MARK"
    # Its standard error is shown only if it fails by itself, not the traceback of a Ctrl-C.
    if ! "$python" -m venv "$TOP/.venv" 2>"$TOP/.venv/install.log"; then
        cat "$TOP/.venv/install.log" >&2
        exit 1
    fi
}

# Ours, and no install into it was ever finished.
_is_half_made() {
    [ -e "$MARK" ] && ! compgen -G "$TOP/.venv/installed-*" >/dev/null
}

_is_python_3_11() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

# The distribution's first: it is built with profile-guided optimisation, and one that a person built,
# as pyenv does by default, is mostly not: tests and simulation took 1.2 times as long with such a one.
_find_python() {
    local candidate lacking=""
    for candidate in /usr/bin/python3.11 python3.11 python3; do
        _is_python_3_11 "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        lacking="${lacking:-$candidate}"
    done
    if [ -n "$lacking" ]; then
        echo "$lacking has no ensurepip. Install it with: apt-get install python3.11-venv" >&2
    else
        echo "Python 3.11 is needed. Install it with: apt-get install python3.11 python3.11-venv" >&2
    fi
    exit 2
}

_install_packages() {
    local lock="$1" size="$2" total log="$TOP/.venv/install.log"
    shift 2
    total="$(grep -c '^[A-Za-z]' "$lock")"
    echo "installing $total packages from ${lock#"$TOP"/} ($size)"
    if ! "$PYTHON" -m pip install --no-input --disable-pip-version-check --progress-bar off "$@" \
        --require-hashes --only-binary :all: -r "$lock" 2>&1 | tee "$log" | _show_progress "$total"; then
        echo "The install failed; its whole log is $log. Its last lines:" >&2
        tail -n 5 "$log" >&2
        exit 1
    fi
}

# One line for each package that pip collects: rewritten on a terminal, every tenth in a file.
_show_progress() {
    local terminal=0
    [ -t 1 ] && terminal=1
    awk -v total="$1" -v terminal="$terminal" '
        /^(Collecting|Requirement already satisfied:)/ {
            count++
            name = $1 == "Collecting" ? $2 : $4
            sub(/==.*/, "", name)
            if (terminal) printf "\r\033[K  %d/%d %s", count, total, name
            else if (count % 10 == 0) printf "  %d/%d %s\n", count, total, name
            fflush()
        }
        /^Installing collected packages/ {
            printf terminal ? "\r\033[K  unpacking" : "  unpacking\n"
            fflush()
        }
        END { if (terminal) printf "\r\033[K" }'
}

# The project itself: a path file and the command. Needs no build tool and no network, and what is
# edited here is what runs.
_install_project() {
    local packages
    packages="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    echo "$TOP" >"$packages/memsync.pth"
    # Shell and Python at once, as pip does it: a first line cannot hold a path with a space.
    cat >"$TOP/.venv/bin/memsync" <<END
#!/bin/sh
'''exec' "$PYTHON" "\$0" "\$@"
' '''
import sys

from memsync.cli.main import main

sys.exit(main())
END
    chmod +x "$TOP/.venv/bin/memsync"
}

_interrupted() {
    echo >&2
    _is_half_made && rm -rf "$TOP/.venv"
    echo "interrupted; nothing half-made is left" >&2
    exit 130
}
