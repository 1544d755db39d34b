# A machine of its own for a real systemd: namespaces of mounts, processes, cgroups and names, in which everything that
# systemd or the service would write (/etc, /opt, /run, /srv, /var/lib, /tmp) is memory.  Only our units exist.
# Expects STASH HOUSE VENV PREFIX PORT ADMIN; runs as process 1 of its namespace and becomes systemd.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755,dev stash "$STASH"
mkdir "$STASH"/{units,opt,lib,srv,units/tierce.service.d}
cp -a /etc "$STASH/etc"
find "$STASH/etc/systemd/system" -mindepth 1 -delete
echo 'tierce:x:4243:4243::/nonexistent:/usr/sbin/nologin' >>"$STASH/etc/passwd"
echo 'tierce:x:4243:' >>"$STASH/etc/group"
# The installed environment is the tests' own, at the installed place; the interpreter may lie where ProtectHome hides it.
mkdir -p "$STASH/opt/python" "$STASH/opt/house" "$STASH/opt/tierce/bin" "$STASH/opt/tierce/lib"
mount --bind "$PREFIX" "$STASH/opt/python"
mount --bind "$HOUSE" "$STASH/opt/house"
mount --bind "$VENV/lib" "$STASH/opt/tierce/lib"
ln -s "/opt/python/bin/$(basename "$(readlink -f "$VENV/bin/python")")" "$STASH/opt/tierce/bin/python"
printf 'home = /opt/python/bin\ninclude-system-site-packages = false\n' >"$STASH/opt/tierce/pyvenv.cfg"
printf '#!/opt/tierce/bin/python\nfrom appliance.cli import main\nmain()\n' >"$STASH/opt/tierce/bin/tierce"
chmod 755 "$STASH/opt/tierce/bin/tierce"
cp "$HOUSE"/systemd/tierce{.service,-advise.socket,-advise@.service} "$STASH/units"
mkdir "$STASH/units/tierce-advise@.service.d"
cat >"$STASH/units/tierce-advise@.service.d/test.conf" <<UNIT
[Service]
Environment=PYTHONPATH=/opt/house PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/opt/python/lib
StandardError=append:/var/lib/service.log
UNIT
cat >"$STASH/units/tierce.service.d/test.conf" <<UNIT
[Service]
Environment=PYTHONPATH=/opt/house PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/opt/python/lib
Environment=TIERCE_POOL_DEVICES=/var/lib/tierce/ssd,/var/lib/tierce/hdd TIERCE_STATE_DIR=/var/lib/tierce
Environment=TIERCE_S3_ADDR=127.0.0.1:$PORT TIERCE_ADMIN_ADDR=127.0.0.1:$ADMIN
StandardOutput=append:/var/lib/service.log
StandardError=inherit
WatchdogSec=15
TimeoutAbortSec=1
UNIT
for name in sysinit basic shutdown multi-user network-online local-fs rescue emergency; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$name" >"$STASH/units/$name.target"
done
mkdir -m 700 "$STASH/lib/tierce"
truncate -s 512M "$STASH/lib/tierce/ssd"
truncate -s 1G "$STASH/lib/tierce/hdd"
chown -R 4243:4243 "$STASH/lib/tierce"
mknod -m 660 "$STASH/fuse" c 10 229
chgrp 4243 "$STASH/fuse"
mount --bind "$STASH/fuse" /dev/fuse
for name in opt srv etc; do mount --rbind "$STASH/$name" "/$name"; done
mount --bind "$STASH/lib" /var/lib
mount -t tmpfs -o mode=755 run /run
mkdir /run/lock
cp -a "$STASH/units" /run/units
while umount -l /sys/fs/cgroup 2>/dev/null; do :; done
mount -t cgroup2 cgroup /sys/fs/cgroup
export LD_LIBRARY_PATH=/opt/python/lib
PYTHONPATH=/opt/house TIERCE_STATE_DIR=/var/lib/tierce setpriv --reuid=4243 --regid=4243 --clear-groups \
    /opt/tierce/bin/tierce pool create --ssd /var/lib/tierce/ssd --hdd /var/lib/tierce/hdd
unset LD_LIBRARY_PATH
mount --make-rshared /  # as systemd does on a machine: what is mounted later is seen in the units' views
for name in /tmp /var/tmp; do mount -t tmpfs -o mode=1777 tmp "$name"; done
export container=other SYSTEMD_UNIT_PATH=/run/units
exec /lib/systemd/systemd --system --unit=basic.target --show-status=no
