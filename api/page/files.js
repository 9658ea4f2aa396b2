// Pictures and files of a job, fetched with the user's key and shown as blobs.

import { file, get } from "./api.js";
import { element, table } from "./elements.js";
import { bytes, time } from "./figures.js";

export async function showFiles(place, now, signal) {
  const path = `/jobs/${encodeURIComponent(now().id)}/artifacts`;
  const { items } = await get(path, { signal });
  if (!items.length) {
    place.append(element("p", {}, "There are no files yet."));
    return;
  }
  const pictures = element("div", { class: "pictures" });
  place.append(pictures);
  const addresses = [];
  signal.addEventListener("abort", () => addresses.forEach((address) => URL.revokeObjectURL(address)), { once: true });
  const load = async (item) => {
    const address = URL.createObjectURL(await file(`${path}/${encodeURIComponent(item.name)}`, { signal }));
    addresses.push(address);
    return address;
  };
  const rows = items.map((item) => [
    item.name, item.media_type, bytes(item.bytes), time(item.created_at),
    element("button", {
      "aria-label": `Download ${item.name}`,
      click: async () => element("a", { href: await load(item), download: item.name }).click(),
    }, "Download"),
  ]);
  place.append(table("Files", ["Name", "Type", "Size", "Made", " "], rows, ["Size"]));
  for (const item of items.filter((item) => item.media_type === "image/png")) {
    pictures.append(element("figure", {}, element("img", { src: await load(item), alt: item.name }), element("figcaption", { class: "quiet" }, item.name)));
  }
}
