"""A plain server: FastAPI, a thread pool with a thread a core, uvicorn with uvloop and httptools.

python benchmarks/peer_fastapi.py PORT MODEL
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile
from peer_work import Work

from service.inference.cpus import usable_cores


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request."""
    app.state.work = Work(Path(sys.argv[2]))
    with ThreadPoolExecutor(usable_cores()) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
async def classify(file: UploadFile) -> dict[str, Any]:
    """Answer one photo."""
    data = await file.read()
    answer: dict[str, Any] = await asyncio.get_running_loop().run_in_executor(app.state.pool, app.state.work, data)
    return answer


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    """Report that the model is loaded."""
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, loop="uvloop", http="httptools")
