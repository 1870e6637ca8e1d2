// The report's page in a frame of the notebook. Which subnetwork is open goes both ways.
const render = ({ model, el }) => {
  const address = URL.createObjectURL(new Blob([model.get("page")], { type: "text/html" }));
  const place = (k) => (k === null ? "#subnetworks" : `#subnetwork-${k}`);
  const opened = () => {
    const found = /^#subnetwork-(\d+)$/.exec(frame.contentWindow.location.hash);
    return found ? Number(found[1]) : null;
  };
  const frame = document.createElement("iframe");
  frame.title = "Subnetworks";
  frame.style.cssText = `display: block; width: 100%; height: ${model.get("height")}px; border: 0; resize: vertical`;
  frame.addEventListener("load", () => {
    frame.contentWindow.addEventListener("hashchange", () => {
      model.set("subnetwork", opened());
      model.save_changes();
    });
  });
  const follow = () => {
    const k = model.get("subnetwork");
    if (k !== opened()) frame.contentWindow.location.hash = place(k);
  };
  const grow = () => { frame.style.height = `${model.get("height")}px`; };
  model.on("change:subnetwork", follow);
  model.on("change:height", grow);
  frame.src = address + place(model.get("subnetwork"));
  el.append(frame);
  return () => {
    model.off("change:subnetwork", follow);
    model.off("change:height", grow);
    URL.revokeObjectURL(address);
  };
};

export default { render };
