# Predicts images on a CPU, without torch: docker build -f docker/infer.Dockerfile -t chestmap-infer .
# docker run --rm --user "$(id -u)" -e HOME=/tmp -v "$PWD:/data" chestmap-infer predict /data/model /data/films --out /data/results
FROM python:3.11-slim
RUN useradd --create-home --uid 10001 chestmap
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY src ./src
COPY configs ./configs
RUN pip install --no-cache-dir uv==0.13.8 && uv pip install --system --no-cache --constraint requirements.lock ".[dicom,infer]"
USER 10001
WORKDIR /data
ENTRYPOINT ["chestmap"]
CMD ["predict", "--help"]
