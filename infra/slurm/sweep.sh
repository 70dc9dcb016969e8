#!/usr/bin/env bash
# One study under Slurm. `sweep submit --to slurm` fills in the next line and `set --` below; the rest is as it stands.
#   --nodes N   a Ray of the job's own over N machines, and one driver beside its head
#   --array N   no Ray: each task is a driver of its own on the same run, which takes its share of the shards
# Told ahead of the time limit or of a preemption (USR2), the driver finishes its leases and the job is queued again.
#SBATCH @options@
set -euo pipefail

RESUMABLE=75  # exit code: run it again
RESTARTS=20   # of one job
WAIT=300      # seconds for all machines to join; then with those that did
ENDING=20     # seconds after scancel at which the driver is told once more: Slurm kills it after 30

set -- @command@ # python -m sweep run SPEC --run RUN ...

driver=''
told=''
cancelled=''
trap 'told=yes; [ -z "$driver" ] || kill -USR2 "$driver" 2>/dev/null || true' USR2
# By scancel, which tells the driver itself; or a preemption, after which Slurm queues it again.
trap 'cancelled=yes; [ -z "$driver" ] || (hurry "$driver" >/dev/null 2>&1 &)' TERM

main() {
    local code=0
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        drive "$@" --share "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" || code=$?
    else
        with_ray "$@" || code=$?
    fi
    [ -z "$told" ] || [ "$code" -le 128 ] || code=$RESUMABLE # told before it could hear, and so ended by the signal
    if [ "$code" = "$RESUMABLE" ] && [ -z "$cancelled" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ]; then
        echo "queued again, after ${SLURM_RESTART_COUNT:-0} restarts" >&2
        scontrol requeue "$SLURM_JOB_ID"
        exec sleep 300 # until Slurm ends this script: one that ended by itself now might be taken to have failed
    fi
    return "$code"
}

drive() { # in the background: a shell hears a signal while it waits, not while a command runs
    local code=0
    "$@" &
    driver=$!
    [ -z "$told" ] || kill -USR2 "$driver" # in the moment before
    while kill -0 "$driver" 2>/dev/null; do wait "$driver" || true; done # a signal ends a wait, not the driver
    wait "$driver" || code=$?                                             # which bash remembers
    driver=''
    return "$code"
}

hurry() { # --grace is for the longer notice
    sleep "$ENDING"
    kill -TERM "$1"
}

with_ray() { # its own port, token and folder: another job on the same machine is never touched, and nothing is `ray stop`ped
    local python=$1 dir ip port code=0
    dir=$(mktemp -d "/tmp/sweep-$SLURM_JOB_ID-XXXX") # short: the names of Ray's sockets are long
    ip=$(address)
    [ -n "$ip" ] || { echo "Slurm's NodeAddr of $SLURMD_NODENAME has no IPv4 address" >&2 && return 1; }
    port=$(free_port "$python")
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$dir/token RAY_USAGE_STATS_ENABLED=0
    # Ray serves metrics on every network of a machine and asks for no token: only where somebody has asked for them.
    export RAY_enable_metrics_collection=${RAY_enable_metrics_collection:-0} DASHBOARD_METRIC_PORT=-1 # which is none
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$dir/token")
    # The token goes through a pipe: never into an argument or a file that others can read.
    srun --overlap --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit=0 --mpi=none \
        bash -c "$(declare -f member address free_port listens); member \"\$@\"" member "$python" "$dir" "$ip" "$port" \
        <"$dir/token" 2>"$dir/srun.log" &
    local step=$!
    if "$python" -m cluster.submission.nodes "$ip:$port" "$SLURM_NNODES" "$WAIT"; then
        drive "$@" --address "$ip:$port" || code=$?
        if [ "$code" != 0 ] && ! listens "$ip" "$port"; then
            echo "Ray's head at $ip:$port ended, and with it the driver ($code): what is committed stays" >&2
            [ "$code" = 3 ] || code=$RESUMABLE
        fi
    else
        code=1
    fi
    kill "$step" 2>/dev/null || true
    wait "$step" || true
    [ "$code" = 0 ] || tail --lines=50 "$dir"/*.log >&2
    rm -rf "$dir"
    return "$code"
}

member() { # one machine's part of the Ray, until it is told to end
    local python=$1 dir=$2 ip=$3 port=$4 ray mine
    ray=$(dirname "$python")/ray
    umask 077
    mkdir -p "$dir"
    [ -e "$dir/token" ] || cat >"$dir/token"
    mine=(--node-ip-address="$(address)" --temp-dir="$dir" --num-cpus="${SLURM_CPUS_ON_NODE:-1}" --block
        --min-worker-port=0 --max-worker-port=0 --object-store-memory=209715200
        --dashboard-agent-listen-port="$(free_port "$python")" --disable-usage-stats)
    if [ "$SLURM_PROCID" = 0 ]; then
        "$ray" start --head --port="$port" --ray-client-server-port="$(free_port "$python")" --include-dashboard=false \
            --no-monitor "${mine[@]}" >"$dir/head.log" 2>&1 &
    else
        until listens "$ip" "$port"; do sleep 1; done
        "$ray" start --address="$ip:$port" "${mine[@]}" >"$dir/$SLURM_PROCID.log" 2>&1 &
    fi
    trap 'kill -KILL $!; rm -rf "$dir"; exit 0' TERM # at once: Ray would wait for its other machines, which end as well
    wait
}

address() { # of this machine, as Slurm knows it: one with several networks has several
    scontrol --oneliner show node "$SLURMD_NODENAME" | tr ' ' '\n' | sed -n 's/^NodeAddr=//p' |
        xargs getent ahostsv4 | sed -n '1s/ .*//p'
}

listens() {
    (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null
}

free_port() {
    "$1" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

main "$@"
