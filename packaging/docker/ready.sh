#!/bin/bash
# Exits with 0 where the gateway says that it is ready. The image has no curl; bash is enough.
#
#   ready [PORT]      default: 15680, or the port of STENTOR__LISTEN__ADMIN
address=${STENTOR__LISTEN__ADMIN:-127.0.0.1:15680}
port=${1:-${address##*:}}
exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
printf 'GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r -t 3 status <&3 || exit 1
[[ $status == 'HTTP/1.'?' 200 '* ]]
