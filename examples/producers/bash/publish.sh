#!/usr/bin/env bash
# Push to a user from a shell, with RabbitMQ's own rabbitmqadmin (needs the management plug-in).
#
#   ./publish.sh user_alice "Nightly backup is done"          (routing key, body)
#
# Environment: RABBITMQ_HOST, RABBITMQ_MANAGEMENT_PORT, RABBITMQ_USER, RABBITMQ_PASSWORD.
set -euo pipefail

key=${1:-user_alice}
body=${2:-Hello from a shell}

# "Message published but NOT routed" means: nobody is connected under this key.
rabbitmqadmin \
  --host="${RABBITMQ_HOST:-127.0.0.1}" --port="${RABBITMQ_MANAGEMENT_PORT:-15672}" \
  --username="${RABBITMQ_USER:-guest}" --password="${RABBITMQ_PASSWORD:-guest}" \
  publish exchange=feed routing_key="$key" payload="$body" \
  properties='{"content_type":"text/plain;charset=utf-8"}'
