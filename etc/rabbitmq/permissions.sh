#!/bin/sh
# The least rights in RabbitMQ with which bus-cache works; docs/security.md says what each is for.
#
#   sh permissions.sh [VHOST [NOVA_USER]]
#
# The users bus-cache-consumer and bus-cache-agent must be there (rabbitmqctl add_user NAME), and
# NOVA_USER, the user of Nova's and Glance's services on this virtual host.
set -eu
vhost=${1:-/}
nova=${2:-nova}

# Patterns of names of exchanges and queues: to declare or delete, to publish to or bind, to read.
rabbitmqctl set_permissions -p "$vhost" bus-cache-consumer \
    '^bus_cache' \
    '^bus_cache' \
    '^(bus_cache|nova$|glance$)'
# Of what is on Nova's and Glance's exchanges, RPC among it: nothing to publish, notifications to read.
rabbitmqctl set_topic_permissions -p "$vhost" bus-cache-consumer nova \
    '^$' '^(versioned_)?notifications\.(info|error)$'
rabbitmqctl set_topic_permissions -p "$vhost" bus-cache-consumer glance \
    '^$' '^(versioned_)?notifications\.(info|error)$'

rabbitmqctl set_permissions -p "$vhost" bus-cache-agent \
    '^bus_cache_(ask$|agent($|\.|_fanout))' \
    '^bus_cache($|_agent($|\.|_fanout_))' \
    '^bus_cache_(ask$|agent($|\.|_fanout))'

# Whatever it could before, but for what is ours.
rabbitmqctl set_permissions -p "$vhost" "$nova" '^(?!bus_cache)' '^(?!bus_cache)' '^(?!bus_cache)'
