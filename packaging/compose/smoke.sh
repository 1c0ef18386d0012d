#!/usr/bin/env bash
# Runs the programs of compose.yaml without containers, and looks whether they work together.
#
#   ./packaging/compose/smoke.sh [FOLDER]   FOLDER with stentor and auth-hook: default target/release
#
# It takes the files of this folder as they are, but for names of hosts and ports, which become free
# ports of the loopback interface. It needs rabbitmq-server, redis-server, haproxy, prometheus, curl and
# python3. Grafana is not started; each query of its dashboard is asked at Prometheus.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bin=$(cd "${1:-../../target/release}" && pwd)
work=$(mktemp -d)
pids=()
finish() {
    local code=$?
    trap - EXIT
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if ((code)); then tail -n 15 "$work"/*.log >&2 || true; fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

passed=0
ok() {
    passed=$((passed + 1))
    echo "ok: $1"
}
# until_true SECONDS WORDS COMMAND…
until_true() {
    local deadline=$((SECONDS + $1))
    until "${@:3}" >/dev/null 2>&1; do
        if ((SECONDS > deadline)); then echo "FAILED: $2" >&2 && exit 1; fi
        sleep 0.2
    done
    ok "$2"
}
run() {
    "${@:2}" >"$work/$1.log" 2>&1 &
    pids+=($!)
}
read -r amqp management exporter distribution epmd redis hook http1 stomp1 admin1 http2 stomp2 admin2 web tcp prometheus < <(
    python3 -c 'import socket
sockets = [socket.socket() for _ in range(16)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))'
)

# RabbitMQ, by rabbitmq.conf and enabled_plugins. The image makes the account from its environment.
sed "s/= 5672/= $amqp/; s/= 15672/= $management/; s/= 15692/= $exporter/" rabbitmq.conf >"$work/rabbitmq.conf"
printf 'default_user = stentor\ndefault_pass = smoke\n' >>"$work/rabbitmq.conf"
export HOME=$work RABBITMQ_NODENAME=smoke$$@localhost RABBITMQ_MNESIA_BASE=$work/mnesia RABBITMQ_LOG_BASE=$work/log \
    RABBITMQ_CONFIG_FILE=$work/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE=$PWD/enabled_plugins \
    RABBITMQ_DIST_PORT=$distribution RABBITMQ_PID_FILE=$work/rabbitmq.pid ERL_EPMD_PORT=$epmd \
    ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_ADVANCED_CONFIG_FILE=$work/none RABBITMQ_CONF_ENV_FILE=/dev/null
run epmd epmd -port "$epmd" -address 127.0.0.1
run rabbitmq "${RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}/rabbitmq-server"
run redis redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --requirepass smoke
run hook "$bin/auth-hook" serve --users ../../examples/auth-hook/users.toml --listen "127.0.0.1:$hook"
until_true 240 'RabbitMQ has the plug-ins' curl -fsS "http://127.0.0.1:$exporter/metrics"

# gateway NAME HTTP STOMP ADMIN: the same file for both; the rest by the environment.
gateway() {
    STENTOR__BROKER__URL=amqp://stentor:smoke@127.0.0.1:$amqp \
        STENTOR__PRESENCE__URL=redis://:smoke@127.0.0.1:$redis/0 \
        STENTOR__AUTH__HOOK=http://127.0.0.1:$hook/auth \
        STENTOR__LISTEN__HTTP=127.0.0.1:$2 STENTOR__LISTEN__STOMP=127.0.0.1:$3 \
        STENTOR__LISTEN__ADMIN=127.0.0.1:$4 STENTOR__LISTEN__TRUSTED_PROXIES=127.0.0.1 \
        STENTOR__SHUTDOWN__NOT_READY=0s run "$1" "$bin/stentor" serve --config stentor.toml
}
gateway stentor1 "$http1" "$stomp1" "$admin1"
gateway stentor2 "$http2" "$stomp2" "$admin2"
# As the image's HEALTHCHECK does it, which finds the port in the gateway's own variable.
healthy() { STENTOR__LISTEN__ADMIN=0.0.0.0:$1 "$bin/stentor" ctl alive; }
until_true 30 'stentor1 is healthy by stentor ctl alive' healthy "$admin1"
until_true 30 'stentor2 is healthy by stentor ctl alive' healthy "$admin2"
if healthy "$epmd" >/dev/null 2>&1; then echo 'FAILED: ctl alive says 0 for another server' >&2 && exit 1; fi
ok 'stentor ctl alive fails at a server that is no gateway'

sed -e "s/stentor1:15674 check port 15680/127.0.0.1:$http1 check port $admin1/" \
    -e "s/stentor2:15674 check port 15680/127.0.0.1:$http2 check port $admin2/" \
    -e "s/stentor1:61613 check port 15680/127.0.0.1:$stomp1 check port $admin1/" \
    -e "s/stentor2:61613 check port 15680/127.0.0.1:$stomp2 check port $admin2/" \
    -e "s/bind :8090/bind 127.0.0.1:$web/; s/bind :61613/bind 127.0.0.1:$tcp/" haproxy.cfg >"$work/haproxy.cfg"
haproxy -c -q -f "$work/haproxy.cfg"
run haproxy haproxy -f "$work/haproxy.cfg"
sed -e "s/stentor1:15680/127.0.0.1:$admin1/; s/stentor2:15680/127.0.0.1:$admin2/; s/rabbitmq:15692/127.0.0.1:$exporter/" \
    -e 's/scrape_interval: 5s/scrape_interval: 1s/' prometheus.yml >"$work/prometheus.yml"
cp ../prometheus/alerts.yml "$work/"
promtool check config "$work/prometheus.yml" >/dev/null
run prometheus prometheus --config.file "$work/prometheus.yml" --storage.tsdb.path "$work/prometheus" \
    --web.listen-address "127.0.0.1:$prometheus"

until_true 30 'HAProxy leads to a gateway: SockJS' curl -fsS "http://127.0.0.1:$web/stomp/info"
upgrade() {
    local status
    # The connection stays open, so that curl ends by its time-out.
    status=$(curl -sS --max-time 2 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$web/ws" -H 'Connection: Upgrade' \
        -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
        -H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==' || true)
    [[ $status == 101 ]]
}
until_true 10 'and WebSocket' upgrade
python3 - "$tcp" <<'END'
import socket, sys

def client(login):
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
    s.settimeout(20)
    file = s.makefile("rwb")
    def say(text):
        file.write(text.encode() + b"\0")
        file.flush()
    def hear():
        frame = b""
        while (byte := file.read(1)) != b"\0":
            if not byte:
                sys.exit(f"the connection ended after {frame}")
            frame += byte
        return frame.decode().lstrip("\n")
    say(f"CONNECT\naccept-version:1.2\nhost:/\nlogin:{login}\npasscode:demo-{login}\n\n")
    answer = hear()
    if not answer.startswith("CONNECTED"):
        sys.exit(answer)
    return say, hear

# Two clients, so one at each gateway: the fewest connections count.
say, hear = client("alice")
say("SUBSCRIBE\nid:1\ndestination:/exchange/feed/user_alice\nreceipt:1\n\n")
assert hear().startswith("RECEIPT")
tell, told = client("backend")
tell("SEND\ndestination:/exchange/feed/user_alice\nreceipt:2\n\nhello")
assert told().startswith("RECEIPT")
message = hear()
assert message.startswith("MESSAGE") and message.endswith("hello"), message
END
ok 'alice gets what backend sends, over TCP through HAProxy'

targets() {
    curl -fsS "http://127.0.0.1:$prometheus/api/v1/targets" | python3 -c '
import json, sys
targets = json.load(sys.stdin)["data"]["activeTargets"]
sys.exit(not (len(targets) == 3 and all(target["health"] == "up" for target in targets)))'
}
until_true 30 'Prometheus reads both gateways and RabbitMQ' targets

# Each query must be understood, and those of gauges have a series now. Labels in legends must be there.
cat >"$work/queries.py" <<'END'
import json, re, sys, urllib.parse, urllib.request
url, seen, silent = sys.argv[1], 0, []
for panel in json.load(open("grafana/dashboards/stentor.json"))["panels"]:
    for target in panel.get("targets", []):
        query = urllib.parse.urlencode({"query": target["expr"]})
        with urllib.request.urlopen(f"{url}/api/v1/query?{query}") as answer:
            series = json.load(answer)["data"]["result"]
        seen += 1
        if not series:
            silent.append(target["expr"])
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            for one in series:
                if label not in one["metric"]:
                    sys.exit(f"{target['expr']} has no label {label}: {one['metric']}")
# Counters with labels begin when something happens: nothing was refused here, no bound was met.
allowed = ("limits_exceeded", "refused", "publish_failures", "mailbox_overflows", "hook_faults",
           "link_failures", "delivery_age")
unexpected = [expr for expr in silent if not any(name in expr for name in allowed)]
if unexpected:
    sys.exit(f"without a series: {unexpected}")
print(f"{seen} queries, of them without a series yet: {len(silent)}")
END
until_true 60 'every query of the dashboard is understood, and has its labels' \
    python3 "$work/queries.py" "http://127.0.0.1:$prometheus"
python3 "$work/queries.py" "http://127.0.0.1:$prometheus"
echo "$passed passed, 0 failed"
