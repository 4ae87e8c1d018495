# What autoscaling makes DEAs from, as a controller's file has it: the lines with names of templates, and no others, because the file has credentials.

say section template
grep -E '^[[:space:]]*(template|template_id)[[:space:]]*:' /s/etc/autoscaling/autoscaling.yaml 2>/dev/null
say section
say end
