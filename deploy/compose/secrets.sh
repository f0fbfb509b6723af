#!/bin/sh
# Makes the files in secrets/ that compose.yaml reads, where they are missing, and gives them and the settings to the
# user of the image. Run it as root in the folder of compose.yaml.
set -eu
umask 077
mkdir -p secrets
random() { head -c 36 /dev/urandom | base64 | tr '+/' '-_'; }
[ -e secrets/secret_key ] || random > secrets/secret_key
[ -e secrets/database_password ] || random > secrets/database_password
printf 'postgres://registry_admin:%s@postgresql:5432/registry_admin\n' "$(cat secrets/database_password)" > secrets/database_url
[ "$(id -u)" = 0 ] || { echo "Not root, so the image's user cannot read the files: chown 10001 secrets/* registry-admin.env" >&2; exit 1; }
chown 10001 secrets/*
if [ -e registry-admin.env ]; then chown 10001 registry-admin.env && chmod 600 registry-admin.env; fi
