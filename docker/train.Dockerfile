# Trains on NVIDIA GPUs: docker build -f docker/train.Dockerfile -t chestmap-train .
# docker run --rm --gpus all --ipc host --user "$(id -u)" -e HOME=/tmp -v "$PWD:/data" chestmap-train train /data/own.toml
FROM python:3.11-slim
RUN useradd --create-home --uid 10001 chestmap
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY configs ./configs
RUN pip install --no-cache-dir ".[dicom,search,train]"
USER chestmap
WORKDIR /data
ENTRYPOINT ["chestmap"]
CMD ["train", "--help"]
