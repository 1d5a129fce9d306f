# ablate for CPUs: docs/running.md says how to build and run it
FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends git python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
# Downloads and compiled data: a volume at /cache keeps them.
ENV PATH=/opt/venv/bin:$PATH ABLATE_CACHE=/cache
WORKDIR /ablate
COPY . .
# Index of torch without CUDA libraries (saves 4 GB): --build-arg TORCH_INDEX=URL
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX"; fi \
    && pip install --no-cache-dir -e '.[dev]'
ENTRYPOINT ["ablate"]
CMD ["--help"]
