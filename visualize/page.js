const picture = document.querySelector("main svg"), told = document.getElementById("told");
const edges = [...picture.querySelectorAll("[data-edge]")], rest = told.textContent;
for (const edge of edges) {  // thin lines are hard to point at
  const wide = edge.cloneNode(true);
  wide.setAttribute("stroke-width", "6");
  wide.setAttribute("stroke-opacity", "0");
  wide.classList.add("wide");
  edges[0].before(wide);
}
const ends = (name) => name.replace(/<.*>/, "").split("->");
picture.addEventListener("mouseover", (event) => {
  const mark = event.target.closest("[data-edge], [data-node], [data-cell]");
  const { edge, node } = mark ? mark.dataset : {};
  const near = (name) => name === edge || ends(name).includes(node);
  told.textContent = mark ? mark.querySelector("title").textContent : rest;
  picture.classList.toggle("pointed", Boolean(edge || node));
  for (const one of edges) one.classList.toggle("near", Boolean(mark) && near(one.dataset.edge));
});
