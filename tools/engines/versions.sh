# shellcheck shell=bash disable=SC2034
# Every version the engines come in, and nothing else. A kept download of another
# version is left alone: each lies in a directory named after its version.

cassandra_version=5.0.8
kafka_version=4.2.0
kafka_scala=2.13
kafka_log4j=2.24.3        # Kafka's jars bring the logging interface, not the logger
elasticsearch_version=8.19.8
elasticsearch_sha256=8d943e94cef02cbceb6e39cd00175bb04e5f882fa32783a473880b8691a54376 # of the archive; changes with the version
maven_dependency_plugin=3.8.1

# From the distribution: the release decides the minor version.
java_major=17             # Cassandra 5.0 runs on 11 and 17, Kafka 4 needs 17
java_package=openjdk-17-jre-headless
postgres_major=${PARLEY_ENGINES_POSTGRES_MAJOR:-15}
redis_package=redis-server
