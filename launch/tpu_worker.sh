#!/usr/bin/env bash
# One worker's part of a run. launch/tpu_vm.py copies it to ~/pit of every worker and calls it there over ssh:
#   state           one line, "pit-state HOST WORD": installing, failed, ready, "running COMMIT FLAGS" (its first digits
#                   and those of a digest), "exit CODE SECONDS" or gone
#   unpack          code.tar.gz takes the place of code/, and the environment becomes the one that it asks for
#   start FLAGS     launch/tpu_run.py with these flags, detached: it goes on when the ssh connection ends
#   log FROM        "pit-size BYTES", then the log from that byte on; its last bytes for a negative number
#   lines COUNT     the last lines of the log, each behind the host's name and a tab
#   stop            end the run; its log stays
set -uo pipefail
cd "${BASH_SOURCE[0]%/*}" || exit 1
self=$PWD/${BASH_SOURCE[0]##*/}
base=${PIT_HOME:-/opt/pit}
host=${PIT_HOST:-$(hostname)}
lockfile=${PIT_LOCKFILE:-/tmp/libtpu_lockfile}
read -r boot </proc/sys/kernel/random/boot_id

# A number means this process only if the machine was not started again since.
alive() {
    [ -f run/pid ] && [ "$(<run/boot)" = "$boot" ] || return 1
    kill -0 "$(<run/pid)" 2>/dev/null || kill -0 -- "-$(<run/pid)" 2>/dev/null
}

state() {
    if alive; then
        word="running $(cat run/given 2>/dev/null)"
    elif [ -f run/code ]; then
        word="exit $(<run/code)"
    elif [ -f run/pid ]; then
        word=gone
    else
        word=$([ -f "$base/state" ] && echo "$(<"$base/state")" || echo installing)
    fi
    echo "pit-state $host $word"
}

# Runs until the command ends with another code than 75 (EX_TEMPFAIL: a notice of pre-emption, the same command again).
supervise() {
    if [ -f env ]; then . ./env; fi
    cd code || exit 1
    restarts=0
    while :; do
        "$base/venv/bin/python" launch/tpu_run.py "$@"
        code=$?
        if [ "$code" -ne 75 ] || [ "$restarts" -ge "${PIT_RESTARTS:-100}" ]; then break; fi
        restarts=$((restarts + 1))
        echo "pit: saved and ended after a notice; restart $restarts of the same command"
        sleep "${PIT_PAUSE:-10}"
    done
    echo "$code $(date +%s.%N)" >../run/code.partial && mv ../run/code.partial ../run/code
}

stop() {
    if alive; then
        kill -TERM -- "-$(<run/pid)"
        for _ in $(seq 50); do
            alive || break
            sleep 0.2
        done
        # jax.distributed catches SIGTERM: a process that waits for a lost peer does not end by it.
        if alive; then kill -KILL -- "-$(<run/pid)"; fi
    fi
    rm -f run/pid run/boot run/code
}

case ${1:-} in
state) state ;;
unpack)
    rm -rf code.partial && mkdir code.partial && tar -xzf code.tar.gz -C code.partial && rm -rf code &&
        mv code.partial code || exit 1
    asked=$(cd code && cat setup.py constraints-py3*.txt | sha256sum | cut -d' ' -f1)
    if [ "$asked" != "$(cat "$base/environment" 2>/dev/null)" ]; then
        sudo -n bash code/launch/tpu_startup.sh code >&2 || exit 1
    fi
    echo "pit-state $host unpacked $(cat code/pit_jax/run/commit.txt)"
    ;;
start)
    if alive; then
        state
        exit
    fi
    shift
    mkdir -p run && rm -f run/pid run/boot run/code
    if [ -f run/log ]; then mv run/log run/log.before; fi
    # Left by a process that was killed, it makes the next one believe that the chips are taken.
    rm -f "$lockfile" 2>/dev/null || sudo -n rm -f "$lockfile"
    echo "$boot" >run/boot
    echo "$(cut -c -12 code/pit_jax/run/commit.txt) $(printf '%s\0' "$@" | sha256sum | cut -c -12)" >run/given
    setsid nohup bash "$self" supervise "$@" >run/log 2>&1 </dev/null &
    echo $! >run/pid
    echo "pit-state $host started"
    ;;
supervise)
    shift
    supervise "$@"
    ;;
log)
    touch run/log 2>/dev/null || exit 0
    size=$(stat -c %s run/log)
    from=$2
    if [ "$from" -lt 0 ]; then from=$((size + from < 0 ? 0 : size + from)); fi
    echo "pit-size $size"
    tail -c "+$((from + 1))" run/log | head -c "$((size > from ? size - from : 0))"
    ;;
lines)
    # Short enough for one write: what several workers send at once is not torn apart.
    if [ -f run/log ]; then tail -n "$2" run/log | cut -c -2000 | sed -u "s/^/$host\t/"; fi
    ;;
stop)
    stop
    echo "pit-state $host stopped"
    ;;
*)
    sed -n '2,10p' "$self" >&2
    exit 2
    ;;
esac
