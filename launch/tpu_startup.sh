#!/usr/bin/env bash
# What a TPU VM does as root at every boot (the metadata's startup-script): the pinned environment into /opt/pit/venv,
# no unattended upgrades, no stale lockfile, the NFS share at /mnt/pit. `tpu_startup.sh FOLDER` installs what the checkout
# in FOLDER asks for. Its state is in /opt/pit/state: installing, ready or failed; its output in
# `sudo journalctl -u google-startup-scripts`.
set -euo pipefail
base=${PIT_HOME:-/opt/pit}
mount=${PIT_MOUNT:-/mnt/pit}
export DEBIAN_FRONTEND=noninteractive
mkdir -p "$base"
echo installing >"$base/state"
trap 'echo failed >"$base/state"' ERR

attribute() {
    curl -sf -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}
# At the first boot the image's own updates hold the lock for a while.
install() { apt-get -o DPkg::Lock::Timeout=900 install -y "$@"; }

# They restart services, and take the lock, in the middle of a run.
systemctl disable --now unattended-upgrades.service apt-daily.timer apt-daily-upgrade.timer ||
    echo "some of the services of unattended upgrades are not there"
apt-get -o DPkg::Lock::Timeout=900 remove -y unattended-upgrades || echo "no unattended-upgrades to remove"
rm -f "${PIT_LOCKFILE:-/tmp/libtpu_lockfile}"

source=$base/source
rm -rf "$source"
if [ $# -gt 0 ]; then
    cp -r "$1" "$source"  # pip leaves files of root's beside setup.py
else
    # setup.py says what to install; a package of nothing else is enough for pip to read it.
    mkdir -p "$source/pit_jax" "$source/configs"
    echo '__version__ = "0"' >"$source/pit_jax/__init__.py"
    attribute pit-setup >"$source/setup.py"
    for lock in constraints-py311 constraints-py312; do attribute "pit-$lock" >"$source/$lock.txt"; done
    if share=$(attribute pit-nfs) && ! mountpoint -q "$mount"; then
        apt-get -o DPkg::Lock::Timeout=900 update
        install nfs-common
        mkdir -p "$mount"
        mount -t nfs -o hard "$share" "$mount"
        chmod 1777 "$mount" || echo "$mount keeps its rights"
    fi
fi

asked=$(cd "$source" && cat setup.py constraints-py3*.txt | sha256sum | cut -d' ' -f1)
if [ "$asked" != "$(cat "$base/environment" 2>/dev/null || true)" ]; then
    rm -f "$base/environment"
    python=$(command -v python3.12 || command -v python3.11 || true)
    if [ -z "$python" ]; then
        # The images are Ubuntu 22.04, whose Python is 3.10; its own archive has only a candidate of 3.11.
        apt-get -o DPkg::Lock::Timeout=900 update
        install software-properties-common
        add-apt-repository -y ppa:deadsnakes/ppa
        install python3.12 python3.12-venv
        python=$(command -v python3.12)
    fi
    lock=constraints-py3$("$python" -c 'import sys; print(min(sys.version_info[1], 12))').txt
    rm -rf "$base/venv"
    "$python" -m venv "$base/venv"
    "$base/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$source/$lock" "$source[tpu,gcs]"
    # The workers run the code that is copied to them.
    "$base/venv/bin/python" -m pip uninstall --quiet --disable-pip-version-check -y pit_jax
    echo "$asked" >"$base/environment"
fi
echo ready >"$base/state"
