# Trains on NVIDIA GPUs: docker build -f docker/train.Dockerfile -t chestmap-train .
# docker run --rm --gpus all --ipc host --user "$(id -u)" -e HOME=/tmp -v "$PWD:/data" chestmap-train train /data/own.toml
FROM python:3.11-slim
RUN useradd --create-home --uid 10001 chestmap
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY src ./src
COPY configs ./configs
RUN pip install --no-cache-dir uv==0.13.8 && uv pip install --system --no-cache --constraint requirements.lock ".[dicom,search,train]"
USER 10001
WORKDIR /data
ENTRYPOINT ["chestmap"]
CMD ["train", "--help"]
