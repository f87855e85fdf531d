// node componentize.mjs JS WIT WORLD OUT: a component without a runtime's wish for WASI.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [js, wit, world, out] = process.argv.slice(2);
const { component } = await componentize(await readFile(js, "utf8"), {
  // Sources lie beside each other: the name has no folder.
  sourceName: "plugin.js",
  witPath: wit,
  worldName: world,
  disableFeatures: ["random", "stdio", "clocks", "http", "fetch-event"],
});
await writeFile(out, component);
