const all = (selector, where = document) => [...where.querySelectorAll(selector)];

// Sorting: a click on a heading sorts by that column, a second click reverses the order.
for (const table of all("table.sortable")) {
  all("th button", table).forEach((button, column) => button.addEventListener("click", () => {
    const heading = button.closest("th");
    const down = heading.getAttribute("aria-sort") === "ascending";
    const value = row => row.cells[column].dataset.sort;
    const number = text => ({inf: Infinity, "-inf": -Infinity})[text] ?? Number(text);
    const order = (a, b) => {
      const [x, y] = [number(value(a)), number(value(b))];
      if (Number.isNaN(x) || Number.isNaN(y)) return value(a).localeCompare(value(b), undefined, {numeric: true});
      return x === y ? 0 : x - y;
    };
    const rows = all("tbody tr", table).sort((a, b) => down ? order(b, a) : order(a, b));
    table.tBodies[0].append(...rows);
    all("th", table).forEach(one => one.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}

// The cost axis: the page holds all drawings and shows the chosen ones.
const costs = document.querySelector("#trade .choice");
if (costs) {
  const show = () => {
    const chosen = costs.querySelector("input:checked").value;
    all(".cost").forEach(one => { one.hidden = one.dataset.cost !== chosen; });
  };
  costs.hidden = all("input", costs).length < 2;
  costs.addEventListener("change", show);
  show();
}

// Playing: every film shows the same frame, which is a number that the page's style reads.
const player = document.querySelector(".player");
if (player) {
  const [button, place, shown] = ["button", "input", "output"].map(tag => player.querySelector(tag));
  let timer = null;
  const show = frame => {
    place.value = frame;
    shown.textContent = `frame ${+place.value + 1} of ${+place.max + 1}`;
    document.documentElement.style.setProperty("--frame", place.value);
  };
  const play = on => {
    clearInterval(timer);
    timer = on ? setInterval(() => show((+place.value + 1) % (+place.max + 1)), 125) : null;
    button.textContent = on ? "pause" : "play";
  };
  button.addEventListener("click", () => play(timer === null));
  place.addEventListener("input", () => { play(false); show(place.value); });
  player.hidden = false;
  show(0);
  play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
}

// Comparing: the two images are taken from the grid below, so that the file holds each only once.
const compare = document.querySelector(".compare");
if (compare && all("select[name=right] option", compare).length) {
  const field = name => compare.querySelector(`[name=${name}]`);
  const stage = compare.querySelector(".stage");
  const slider = stage.querySelector("input");
  const images = all("img[data-cell]");
  const find = cell => images.find(one => one.dataset.prompt === field("prompt").value && one.dataset.cell === cell);
  const put = (place, tag, image) => {
    const shown = stage.querySelector(place);
    shown.src = image ? image.src : "data:,";
    shown.alt = image ? image.alt : "no such image";
    shown.classList.toggle("film", image?.classList.contains("film") ?? false);
    shown.style.cssText = image ? image.style.cssText : "";
    stage.querySelector(tag).textContent = image ? image.dataset.cell : "not generated";
  };
  const update = () => {
    const right = find(field("right").value);
    put(".under", ".right", right);
    put(".over", ".left", find(field("left").value || right?.dataset.base));
    stage.dataset.mode = compare.querySelector("[name=mode]:checked").value;
    stage.style.setProperty("--cut", `${slider.value}%`);
  };
  for (const image of images) image.addEventListener("click", () => {
    field("prompt").value = image.dataset.prompt;
    if (image.dataset.cell !== image.dataset.base) field("right").value = image.dataset.cell;
    update();
    compare.scrollIntoView({block: "nearest"});
  });
  compare.addEventListener("input", update);
  compare.hidden = false;
  update();
}
