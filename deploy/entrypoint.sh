#!/bin/sh
# LLMGUIDE_NAME_FILE=/run/secrets/x sets LLMGUIDE_NAME to what the file holds, so that no password stands in the environment's listing.
set -eu
for name in DATABASE_URL REDIS_URL API_KEY; do
    eval "file=\${LLMGUIDE_${name}_FILE:-}"
    if [ -n "$file" ]; then
        value=$(cat "$file")
        export "LLMGUIDE_${name}=$value"
    fi
done
exec "$@"
