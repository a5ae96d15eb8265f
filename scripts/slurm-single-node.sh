#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, for tests: munge, slurmctld and slurmd, without systemd and cgroups.
#
#   sudo apt-get install --no-install-recommends slurm-wlm munge
#   scripts/slurm-single-node.sh start     # then: export SLURM_CONF=... as it prints
#   scripts/slurm-single-node.sh stop
#
# Everything it writes is below FOLDER (second argument, default /run/slurm-single-node): nothing of an installed
# SLURM is changed, and a cluster that runs already on this machine's usual ports is left alone. Needs root.
set -euo pipefail

action="${1:-}"
folder="${2:-/run/slurm-single-node}"
conf="$folder/slurm.conf"
munge_socket="$folder/munge/munge.socket"

fail() {
    echo "slurm-single-node: $*" >&2
    exit 1
}

alive() { # PIDFILE: is that daemon running?
    local pid
    pid="$(cat "$1" 2>/dev/null)" && [[ -n "$pid" ]] && kill -0 "$pid" 2>/dev/null
}

start() {
    [[ "$(id -u)" == 0 ]] || fail "run it as root (slurmd starts jobs for other users)"
    for program in munged slurmctld slurmd sinfo; do
        command -v "$program" >/dev/null || fail "$program is not installed: apt-get install slurm-wlm munge"
    done
    alive "$folder/slurmctld.pid" && fail "already started in $folder"
    [[ -z "$(ls -A "$folder" 2>/dev/null)" || -f "$conf" ]] || fail "$folder holds something else: name an empty folder"
    mkdir -p "$folder/munge" "$folder/state" "$folder/spool" "$folder/log"
    chmod 755 "$folder" "$folder/munge"

    # a key and a socket of our own, so that a munge of the machine is neither needed nor disturbed
    (umask 077 && dd if=/dev/urandom of="$folder/munge/munge.key" bs=128 count=1 status=none)
    munged --force --socket="$munge_socket" --key-file="$folder/munge/munge.key" --pid-file="$folder/munge/munged.pid" \
        --log-file="$folder/munge/munged.log" --seed-file="$folder/munge/munged.seed"

    local host cores memory ports
    host="$(hostname -s)"
    cores="$(nproc --all)"
    memory="$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)"
    ports="${SLURM_SINGLE_NODE_PORT:-16817}"
    cat >"$conf" <<CONF
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ports
SlurmdPort=$((ports + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$munge_socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
JobRequeue=1
KillWait=5
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF="$conf"
    slurmctld -f "$conf"
    slurmd -f "$conf"
    for _ in $(seq 60); do
        if [[ "$(sinfo --noheader --format %T 2>/dev/null)" =~ ^(idle|mixed|allocated)$ ]]; then
            echo "export SLURM_CONF=$conf"
            return
        fi
        sleep 0.5
    done
    tail -n 20 "$folder"/log/*.log >&2 || true
    stop
    fail "the node did not come up in 30 seconds"
}

stop() {
    [[ -f "$conf" ]] || return 0
    if alive "$folder/slurmctld.pid"; then
        export SLURM_CONF="$conf"
        timeout 20 scancel --full --user="$(id -un)" 2>/dev/null || true
        for _ in $(seq 30); do # a job that is still ending would outlive its daemons
            [[ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ]] || break
            sleep 0.5
        done
    fi
    local pid
    for pid in slurmd.pid slurmctld.pid munge/munged.pid; do
        if alive "$folder/$pid"; then
            kill "$(cat "$folder/$pid")"
            for _ in $(seq 50); do
                alive "$folder/$pid" || break
                sleep 0.2
            done
        fi
    done
    rm -rf "$folder"
}

case "$action" in
start | stop) "$action" ;;
*) fail "usage: $0 start|stop [FOLDER]" ;;
esac
