#!/bin/sh
# Start SLURM with this machine as its only node, for tests (Debian: slurm-wlm, munge; needs root).
#   slurm_single_node.sh start DIR [CPUS]    state and logs below DIR; then: export SLURM_CONF=DIR/slurm.conf
#   slurm_single_node.sh stop DIR
set -eu
action=$1
dir=$2
cpus=${3:-2}
host=$(hostname -s)

start() {
    mkdir -p "$dir/state" "$dir/spool" "$dir/munge"
    # munged insists on folders that nobody else can write.
    chown munge: "$dir/munge"
    chmod 755 "$dir" "$dir/munge"
    dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 2>/dev/null
    chown munge: "$dir/munge/key"
    chmod 400 "$dir/munge/key"
    runuser -u munge -- munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" \
        --pid-file="$dir/munge/pid" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" \
        </dev/null >/dev/null 2>&1
    cat > "$dir/slurm.conf" <<EOF
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
    printf "CgroupPlugin=autodetect\nIgnoreSystemd=yes\n" > "$dir/cgroup.conf"
    # Daemons must not hold the caller's pipe open.
    SLURM_CONF="$dir/slurm.conf" slurmctld </dev/null >/dev/null 2>&1
    SLURM_CONF="$dir/slurm.conf" slurmd </dev/null >/dev/null 2>&1
}

stop() {
    for name in slurmd slurmctld munge/pid; do
        file="$dir/${name%/pid}"
        case $name in munge/pid) file="$dir/munge/pid" ;; *) file="$dir/$name.pid" ;; esac
        if [ -f "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
    done
}

"$action"
