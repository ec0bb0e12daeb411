# Serves models behind HTTP: docker build -f docker/serve.Dockerfile -t chestmap-serve .
# docker run --rm --user "$(id -u)" -e HOME=/tmp -p 8000:8000 -v "$PWD:/data" chestmap-serve serve /data/model --store /data/store --host 0.0.0.0 --token-file /data/tokens
FROM python:3.11-slim
RUN useradd --create-home --uid 10001 chestmap
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY src ./src
COPY configs ./configs
RUN pip install --no-cache-dir uv==0.13.8 && uv pip install --system --no-cache --constraint requirements.lock ".[dicom,infer,serve]"
USER 10001
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["chestmap"]
CMD ["serve", "--help"]
