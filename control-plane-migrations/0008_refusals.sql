ALTER TABLE run
    -- Failures since the last step that was recorded, but for those that pass by themselves: a run that has too many of them
    -- waits for a person. `attempts` counts them all.
    ADD COLUMN refusals integer NOT NULL DEFAULT 0;
