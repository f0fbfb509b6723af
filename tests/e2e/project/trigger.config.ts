// The path with /v3 is the one that every version of the SDK from 3.3 on has.
import { defineConfig } from "@trigger.dev/sdk/v3";

export default defineConfig({
  project: process.env.TRIGGER_PROJECT_REF ?? "set TRIGGER_PROJECT_REF",
  dirs: ["./src/trigger"],
  maxDuration: 60,
});
