"""One method fits one case and prints a JSON line: python measure.py METHOD CASE.npz DEVICE.

It runs in the method's own environment, so what only one of them has is imported where it is used. Every method has
the same rows, the same network of ReLUs, Adam with the same rate, the same epochs and minibatches.
"""

import functools
import importlib
import itertools
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

RATE = 1e-3


def ours(case, networks=1):
    torch = importlib.import_module("torch")
    fitting = importlib.import_module("training.fitting.fit")
    objective_of = importlib.import_module("training.fitting.losses").objective_of
    make_member = importlib.import_module("training.network.net").make_member
    plans = importlib.import_module("training.plan")
    rows = (torch.from_numpy(case["x"]).to(case["device"]), y := torch.from_numpy(case["y"]).to(case["device"]))
    few = (rows[0][:100], y[:100])  # the others look at no validation rows at all
    loss = "mse" if y.ndim == 2 else "cross_entropy"
    net_plan = plans.NetPlan(hidden=case["hidden"], activation="relu")

    def run(epochs):
        plain = {"optimizer": "adam", "schedule": "constant", "patience": 0, "keep": "last"}
        plan = plans.FitPlan(learning_rate=RATE, epochs=epochs, batch=case["batch"], **plain)
        make = lambda: make_member(net_plan, rows[0].shape[1], [], case["outputs"])  # noqa: E731
        jobs = [fitting.Job.of(plan, make, rows, few, seed) for seed in range(networks)]
        return fitting.fit_together(jobs, objective_of(loss), report=lambda *_: None)[0].net

    return run, lambda net: net(rows[0]).detach().cpu().numpy()


def _torch_net(case):
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    sizes = [case["x"].shape[1], *case["hidden"], case["outputs"]]
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1]).to(case["device"])
    return torch, net, torch.from_numpy(case["x"]), torch.from_numpy(case["y"])


def _answers(net, x):
    return net(x.to(next(net.parameters()).device)).detach().cpu().numpy()


def tutorial(case):
    """As in the tutorials: a DataLoader that collects rows one at a time."""

    def run(epochs):
        torch, net, x, y = _torch_net(case)
        loss_of = torch.nn.MSELoss() if y.ndim == 2 else torch.nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(x, y), batch_size=case["batch"], shuffle=True
        )
        for _ in range(epochs):
            for some_x, some_y in loader:
                optimizer.zero_grad()
                loss_of(net(some_x.to(case["device"])), some_y.to(case["device"])).backward()
                optimizer.step()
        return net

    return run, lambda net: _answers(net, _torch_net(case)[2])


def indexed(case):
    """The loop that those who know the DataLoader's cost write: minibatches by indexing tensors."""

    def run(epochs):
        torch, net, x, y = _torch_net(case)
        x, y = x.to(case["device"]), y.to(case["device"])
        loss_of = torch.nn.MSELoss() if y.ndim == 2 else torch.nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        for _ in range(epochs):
            order = torch.randperm(len(x), device=x.device)
            for start in range(0, len(x), case["batch"]):
                rows = order[start : start + case["batch"]]
                optimizer.zero_grad()
                loss_of(net(x[rows]), y[rows]).backward()
                optimizer.step()
        return net

    return run, lambda net: _answers(net, _torch_net(case)[2])


def scikit_learn(case):
    neural = importlib.import_module("sklearn.neural_network")
    kind = neural.MLPRegressor if case["y"].ndim == 2 else neural.MLPClassifier

    def run(epochs):
        model = kind(
            hidden_layer_sizes=case["hidden"],
            batch_size=case["batch"],
            max_iter=epochs,
            n_iter_no_change=epochs,
            learning_rate_init=RATE,
            alpha=0.0,
            tol=0.0,
            random_state=0,
        )
        return model.fit(case["x"], case["y"].ravel())

    def answer(model):
        if case["y"].ndim == 2:
            return model.predict(case["x"])[:, None]
        return np.log(np.maximum(model.predict_proba(case["x"]), 1e-30))

    return run, answer


def skorch(case):
    library = importlib.import_module("skorch")

    def run(epochs):
        torch, net, _, y = _torch_net(case)
        loss = torch.nn.MSELoss if y.ndim == 2 else torch.nn.CrossEntropyLoss
        model = library.NeuralNet(
            net,
            criterion=loss,
            optimizer=torch.optim.Adam,
            lr=RATE,
            max_epochs=epochs,
            batch_size=case["batch"],
            iterator_train__shuffle=True,
            train_split=None,
            predict_nonlinearity=None,
            verbose=0,
            device=case["device"],
        )
        return model.fit(case["x"], case["y"])

    return run, lambda model: model.predict(case["x"])


def pytabkit(case):
    """RealMLP-TD-S with this network's widths; its preprocessing and parametrisation stay its own."""
    library = importlib.import_module("pytabkit")
    is_regression = case["y"].ndim == 2
    kind = library.RealMLP_TD_S_Regressor if is_regression else library.RealMLP_TD_S_Classifier

    def run(epochs):
        model = kind(n_cv=1, n_refit=0, device="cpu", random_state=0, n_threads=1, verbosity=0, n_epochs=epochs,
                     batch_size=case["batch"], hidden_sizes=list(case["hidden"]), val_fraction=0.01)  # fmt: skip
        return model.fit(case["x"], case["y"].ravel())

    def answer(model):
        if is_regression:
            return np.asarray(model.predict(case["x"])).reshape(-1, 1)
        return np.log(np.maximum(model.predict_proba(case["x"]), 1e-30))

    return run, answer


def products(case):
    """The matrix products of a fit and nothing else: three for each layer but the first, which has two."""
    torch = importlib.import_module("torch")
    sizes = [case["x"].shape[1], *case["hidden"], case["outputs"]]
    pairs = list(itertools.pairwise(sizes))
    h = [torch.randn(case["batch"], size, device=case["device"]) for size in sizes]
    w = [torch.randn(inputs, outputs, device=case["device"]) for inputs, outputs in pairs]

    def run(epochs):
        for _ in range(epochs * (len(case["x"]) // case["batch"])):
            for layer in range(len(w)):
                torch.mm(h[layer], w[layer])
                torch.mm(h[layer].T, h[layer + 1])
                if layer:
                    torch.mm(h[layer + 1], w[layer].T)

    return run, None


METHODS = {
    "ours": ours,
    "ours, eight": functools.partial(ours, networks=8),
    "tutorial": tutorial,
    "indexed": indexed,
    "scikit-learn": scikit_learn,
    "skorch": skorch,
    "pytabkit": pytabkit,
    "products": products,
}


def loss_of(case, raw):
    if case["y"].ndim == 2:
        return float(np.square(raw - case["y"]).mean())
    raw = raw - raw.max(1, keepdims=True)
    log_p = raw - np.log(np.exp(raw).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(raw)), case["y"]].mean())


def main(method, path, device):
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    with np.load(path) as file:
        case = {name: file[name] for name in file.files}
    case |= {name: int(case[name]) for name in ("batch", "epochs", "outputs")}
    case["hidden"], case["device"] = tuple(int(width) for width in case["hidden"]), device
    run, answer = METHODS[method](case)
    run(2)  # warm
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = run(case["epochs"])
    wait()
    figures = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps(figures | {"loss": None if answer is None else loss_of(case, answer(fitted))}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
