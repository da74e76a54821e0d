import os

from hypothesis import settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

# No deadline: the machine may be busy. The same examples every time: a red test is red for everybody.
settings.register_profile("contract", deadline=None, derandomize=True)
settings.load_profile("contract")
