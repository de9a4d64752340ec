"use strict";
// What a reader does: choosing a layer and metrics, turning a phone, switching to dark, printing.

for (const group of document.querySelectorAll(".metrics")) {
  chosen.metrics[group.dataset.section] = group.querySelector("input:checked").value;
  group.addEventListener("change", (event) => {
    chosen.metrics[group.dataset.section] = event.target.value;
    drawAll();
  });
}
const slider = document.getElementById("layer");
if (slider) {
  slider.value = 0; // a browser keeps the value of a page that is loaded again
  slider.addEventListener("input", () => {
    chosen.layer = page.layers[slider.value];
    document.getElementById("layer-name").textContent = chosen.layer;
    slider.setAttribute("aria-valuetext", `layer ${chosen.layer}`);
    drawAll();
  });
}
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (printing || window.innerWidth === width) return; // a phone's address bar changes the height alone
  width = window.innerWidth;
  drawAll();
});
dark.addEventListener("change", drawAll);
window.addEventListener("beforeprint", () => drawForPaper(true));
window.addEventListener("afterprint", () => drawForPaper(false));
paper.addEventListener("change", (event) => drawForPaper(event.matches));
setTimeout(drawAll, 50); // some frames later, when the text is on the screen; browsers without one draw, too
