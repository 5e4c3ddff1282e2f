"""Kernels for the tests of the notebooks that need not import what nearly all of them import.

Importing the training stack takes ten seconds of a core, more than most notebooks compute in the tests. Here a process
imports it once and computes nothing; each kernel is a fork of it, and so still a process of its own.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import sys
import time
from unittest import mock

WARM = [  # none of them starts threads, which a fork would lose (pyarrow's allocator does, and starts its own anew)
    *("ipykernel.kernelapp", "matplotlib.pyplot", "pandas", "scipy.stats", "sklearn.metrics", "jsonschema", "openai"),
    *("torch", "transformers.models.llama.modeling_llama", "peft", "sentence_transformers"),
]


class ForkedKernel:
    """What jupyter_client uses of subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, command, *, env, cwd=".", **_):
        server = multiprocessing.get_context("forkserver")  # each of xdist's workers starts one, for its first kernel
        server.set_forkserver_preload(WARM)
        arguments = command[command.index("-m") + 1 :]
        self.process = server.Process(target=run_kernel, args=(arguments, cwd, dict(env)))
        with mock.patch.dict(os.environ, MPLBACKEND="module://matplotlib_inline.backend_inline"):  # a kernel's own choice
            self.process.start()
        self.pid, self.kill, self.terminate = self.process.pid, self.process.kill, self.process.terminate
        while os.getpgid(self.pid) != self.pid:  # until it leads a group, a signal to its group would reach pytest
            time.sleep(0.001)

    def poll(self):
        """The exit code, None while the kernel runs."""
        return self.process.exitcode

    def wait(self):
        """The exit code, once there is one."""
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        """Send a signal to the kernel alone."""
        os.kill(self.pid, number)


def run_kernel(arguments, folder, environment):
    """Be `python -m NAME ARGUMENTS`, in this folder and with this environment."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    gc.freeze()  # the garbage collector need not look through what was imported
    multiprocessing.set_start_method(None, force=True)
    sys.path[:] = [entry for entry in sys.path if os.path.basename(entry) != "tests"]  # which pytest adds, no reader
    sys.argv = [*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"]  # a kernel ends when its parent does
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
